//! payload as an administrator installs it into a machine, and what systemd says about it.

use std::path::Path;

use serde_json::Value;

use crate::machine::Machine;

impl Machine {
    /// Installs the binary and the shipped units, and starts the socket.
    pub(crate) fn install(&self) {
        self.copy_in(
            Path::new(env!("CARGO_BIN_EXE_payload")),
            "/usr/bin/payload",
            0o755,
        );
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
        for unit in ["payload.socket", "payload.service"] {
            self.copy_in(
                &units.join(unit),
                &format!("/usr/lib/systemd/system/{unit}"),
                0o644,
            );
        }
        self.ok("systemctl daemon-reload");
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

    /// What the journal has of a unit, oldest first, everything that was sent before the call included.
    #[track_caller]
    pub(crate) fn journal(&self, unit: &str) -> Vec<Value> {
        let lines = self.ok(&format!(
            "journalctl --sync && journalctl --output=json --unit={unit}"
        ));
        lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }
}
