//! The real binary on a passed socket.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running service; ended with its value.
pub(crate) struct Service(Child);

impl Service {
    /// Starts it as systemd would; it may not yet accept, but a connection waits in the socket's queue.
    pub(crate) fn start(socket: TcpListener, workers: u32) -> Self {
        // The shell's pid is the service's: LISTEN_PID says so.
        let script = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" run --workers "$1" 3<&0 </dev/null"#;
        let child = Command::new("sh")
            .args([
                "-c",
                script,
                env!("CARGO_BIN_EXE_payload"),
                &workers.to_string(),
            ])
            .env_remove("NOTIFY_SOCKET")
            .env_remove("RUNTIME_DIRECTORY")
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// The arbiter's.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// As `systemctl stop` does it; returns when it is gone.
    pub(crate) fn stop(mut self) {
        assert!(self.end(), "the service did not end in time");
    }

    fn end(&mut self) -> bool {
        let Ok(pid) = i32::try_from(self.0.id()) else {
            return false;
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) && !self.end() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
