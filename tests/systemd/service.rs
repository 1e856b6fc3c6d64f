//! payload as an administrator installs it into a machine, and what systemd says about it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::judge::{Stint, read};
use crate::machine::Machine;
use crate::support::eventually;
use crate::support::service::{example, probe};

pub(crate) const SOCKET: &str = "payload.socket";
pub(crate) const SERVICE: &str = "payload.service";

/// Where the probe's payload writes.
pub(crate) const LEDGER: &str = "/var/lib/ledger/ledger";

/// For what takes systemd and payload a moment.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Asks the service for one page; silent unless it fails.
pub(crate) const GET: &str =
    "curl --silent --show-error --fail --max-time 30 http://127.0.0.1:8080";

/// The same for somebody who waits while the service fails again and again.
pub(crate) const GET_IN_THE_END: &str =
    "curl --silent --show-error --fail --max-time 80 http://127.0.0.1:8080";

impl Machine {
    /// Installs the binary and the shipped units, and enables and starts the socket, not the service.
    pub(crate) fn install(&self) {
        self.install_binary(Path::new(env!("CARGO_BIN_EXE_payload")));
    }

    /// The same with the test service of `tests/support/probe.rs` in the binary's place.
    pub(crate) fn install_probe(&self, configuration: &str) {
        self.configure(configuration);
        self.install_binary(&probe());
    }

    /// The same with the service that the loss meter asks; the program is the meter as well.
    pub(crate) fn install_loss(&self, configuration: &str) {
        self.configure(configuration);
        self.install_binary(&example("loss"));
    }

    fn install_binary(&self, binary: &Path) {
        self.copy_in(binary, "/usr/bin/payload", 0o755);
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
        for unit in [SOCKET, SERVICE] {
            let installed = format!("/usr/lib/systemd/system/{unit}");
            self.copy_in(&units.join(unit), &installed, 0o644);
        }
        self.ok("systemctl daemon-reload && systemctl enable --now payload.socket");
    }

    /// Writes the configuration file.
    pub(crate) fn configure(&self, toml: &str) {
        self.write_file("/etc/payload/payload.toml", toml);
    }

    /// Puts lines into the `[Service]` section of payload.service, beside those of the shipped unit.
    pub(crate) fn drop_in(&self, lines: &str) {
        self.write_file(
            "/etc/systemd/system/payload.service.d/test.conf",
            &format!("[Service]\n{lines}\n"),
        );
        self.ok("systemctl daemon-reload");
    }

    /// One property of a unit, as `systemctl show` has it.
    #[track_caller]
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.ok(&format!("systemctl show --property={name} --value {unit}"))
    }

    /// Waits until a property is what it should become.
    #[track_caller]
    pub(crate) fn wait_for(&self, unit: &str, name: &str, good: impl Fn(&str) -> bool) -> String {
        eventually(&format!("{name} of {unit}"), SOON, || {
            Some(self.property(unit, name)).filter(|value| good(value))
        })
    }

    /// Asks for a page, which starts the service if need be, and waits until systemd knows that it runs: the
    /// answer may come a moment before READY=1.
    #[track_caller]
    pub(crate) fn get(&self) -> String {
        let page = self.ok(GET);
        self.wait_for(SERVICE, "ActiveState", |state| state == "active");
        page
    }

    /// The service's main process.
    #[track_caller]
    pub(crate) fn arbiter(&self) -> u32 {
        let pid = self.property(SERVICE, "MainPID");
        pid.parse().expect("a pid")
    }

    /// What the service says about itself through its control socket.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.ok(STATUS)).expect("JSON")
    }

    /// The same, whose payload keeps a ledger where the unit may write, over its lives; more lines of `[app]` can follow.
    /// Words for it go into the file beside that, see `tests/support/ledger.rs`.
    pub(crate) fn install_ledger(&self, settings: &str) {
        self.drop_in("StateDirectory=ledger");
        self.install_probe(&format!(
            "workers = 2\n[app]\nledger = '{LEDGER}'\nscope = 'service'\nledger_policy = 'restart'\n{settings}"
        ));
    }

    /// Everybody who ever wrote that: never two at the same time.
    #[track_caller]
    pub(crate) fn stints(&self) -> Vec<Stint> {
        // Who has just got its lease has yet to begin it.
        let text = self.ok(&format!("test ! -e {LEDGER} || cat {LEDGER}"));
        read(&text, false).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What the journal has of a unit and of whoever calls itself payload, oldest first, everything that was sent before
    /// the call included.
    #[track_caller]
    pub(crate) fn journal(&self, unit: &str) -> Vec<Value> {
        // An entry of a process that is gone before the journal looks at it has no unit.
        let lines = self.ok(&format!(
            "journalctl --sync && journalctl --output=json \
             _SYSTEMD_UNIT={unit} + UNIT={unit} + SYSLOG_IDENTIFIER=payload"
        ));
        lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }
}

/// As root types it.
pub(crate) const STATUS: &str = "payload status --json --control /run/payload/control.sock";
