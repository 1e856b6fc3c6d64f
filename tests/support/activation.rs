//! Passing sockets to a service as a service manager does, see sd_listen_fds(3).

use std::os::fd::OwnedFd;

use super::service::{Setup, example};

/// Its own pid, unless the environment has another one; an empty one is none.
const WHOSE: &str =
    r#"export LISTEN_PID="${LISTEN_PID-$$}"; [ "$LISTEN_PID" ] || unset LISTEN_PID"#;

impl Setup {
    /// Passes this descriptor instead of `--listen`; two at most. What [`Setup::env`] gives behind it wins over
    /// what is true.
    ///
    /// They travel as standard input and output to a shell, which moves them to 3 and 4 and becomes the service:
    /// so its pid is known before it starts, and no other child of the test can inherit them.
    pub(crate) fn pass(mut self, descriptor: impl Into<OwnedFd>) -> Self {
        let (place, moves) = match self.passed {
            0 => (&mut self.stdin, "exec 3<&0 0</dev/null"),
            1 => (&mut self.stdout, "exec 3<&0 4<&1 0</dev/null 1>/dev/null"),
            _ => panic!("two descriptors at most"),
        };
        *place = descriptor.into().into();
        self.passed += 1;
        let count = self.passed.to_string();
        let script = format!("{moves}; {WHOSE}; exec \"$@\"");
        self.listen(None)
            .env("LISTEN_FDS", &count)
            .through(&["sh", "-c", &script, "sh"])
    }

    /// Passes every descriptor that comes over this socket with one message, instead of `--listen`.
    pub(crate) fn pass_from(mut self, socket: impl Into<OwnedFd>, names: &[&str]) -> Self {
        self.stdin = socket.into().into();
        let launch = example("launch");
        self.listen(None)
            .env("LISTEN_FDNAMES", &names.join(":"))
            .through(&[launch.to_str().expect("UTF-8")])
    }
}
