//! A unit's limits as its files have them, for whoever cannot ask the manager: a service with `DynamicUser=` is not let
//! in by dbus-daemon(1), which does not know its user.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Limits, span};

/// Where units are, the most important first: systemd.unit(5).
const UNITS: [&str; 7] = [
    "etc/systemd/system",
    "run/systemd/transient",
    "run/systemd/system",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// Where the manager's own configuration is: systemd-system.conf(5).
const MANAGER: [&str; 4] = [
    "etc/systemd",
    "run/systemd",
    "usr/local/lib/systemd",
    "usr/lib/systemd",
];
/// DefaultTimeoutStartSec= and DefaultTimeoutStopSec=, unless somebody has set them.
const DEFAULT: Option<Duration> = Some(Duration::from_secs(90));

/// The limits of the unit `name` below `root`, which is `/`; `None`: its file is not there, or says something that is
/// not understood.
pub(super) fn limits(root: &Path, name: &str) -> Option<Limits> {
    let names = names(name);
    let texts = |folders: &[&str], names: &[String]| {
        let folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
        let own = names
            .iter()
            .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
            .find_map(|path| fs::read_to_string(path).ok());
        (own, drop_ins(&folders, names))
    };
    let (own, more) = texts(&MANAGER, &["system.conf".to_owned()]);
    let mut found = Found {
        start: DEFAULT,
        stop: DEFAULT,
    };
    for text in own.iter().chain(&more) {
        found.read(
            text,
            "[Manager]",
            ["DefaultTimeoutStartSec", "DefaultTimeoutStopSec"],
        )?;
    }
    let (own, more) = texts(&UNITS, &names);
    for text in [own?].iter().chain(&more) {
        found.read(text, "[Service]", ["TimeoutStartSec", "TimeoutStopSec"])?;
    }
    Some(Limits {
        unit: name.to_owned(),
        start: found.start,
        stop: found.stop,
    })
}

/// What the unit's file may be called: an instance has its own, or that of its template.
fn names(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    if let (Some((stem, _)), Some((_, kind))) = (name.split_once('@'), name.rsplit_once('.')) {
        names.push(format!("{stem}@.{kind}"));
    }
    names
}

/// The texts of the drop-ins, in the order in which they count. Of those with the same name in several folders the
/// first counts alone.
fn drop_ins(folders: &[PathBuf], names: &[String]) -> Vec<String> {
    let kinds = names.iter().filter_map(|name| name.rsplit_once('.'));
    let mut all: Vec<String> = names.iter().map(|name| format!("{name}.d")).collect();
    all.extend(kinds.map(|(_, kind)| format!("{kind}.d")));
    let mut texts = BTreeMap::new();
    for folder in all
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
    {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|kind| kind == "conf")
                && let Ok(text) = fs::read_to_string(&path)
            {
                texts.entry(entry.file_name()).or_insert(text);
            }
        }
    }
    texts.into_values().collect()
}

struct Found {
    start: Option<Duration>,
    stop: Option<Duration>,
}

impl Found {
    /// What is said later wins.
    fn read(&mut self, text: &str, section: &str, [start, stop]: [&str; 2]) -> Option<()> {
        let mut inside = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                inside = line == section;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| inside) else {
                continue;
            };
            let key = key.trim_end();
            // Both at once.
            let both = key == "TimeoutSec" && start == "TimeoutStartSec";
            if key == start || both {
                self.start = span::limit(value)?;
            }
            if key == stop || both {
                self.stop = span::limit(value)?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn of(root: &Path, name: &str) -> Option<(Option<u64>, Option<u64>)> {
        let limits = limits(root, name)?;
        assert_eq!(limits.unit, name);
        let seconds = |span: Option<Duration>| span.map(|span| span.as_secs());
        Some((seconds(limits.start), seconds(limits.stop)))
    }

    #[test]
    fn the_unit_its_drop_ins_and_the_managers_defaults_are_read_as_systemd_does() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(of(root, "a.service"), None);
        let unit = "[Unit]\nTimeoutStopSec=1\n[Service]\n# TimeoutStopSec=2\nTimeoutStopSec=1min\n[Install]\n";
        write(root, "usr/lib/systemd/system/a.service", unit);
        assert_eq!(of(root, "a.service"), Some((Some(90), Some(60))));
        write(
            root,
            "etc/systemd/system.conf",
            "[Manager]\nDefaultTimeoutStartSec=40s\n",
        );
        write(
            root,
            "usr/lib/systemd/system.conf",
            "[Manager]\nDefaultTimeoutStartSec=30s\n",
        );
        assert_eq!(of(root, "a.service"), Some((Some(40), Some(60))));
        write(
            root,
            "etc/systemd/system.conf.d/x.conf",
            "[Manager]\nDefaultTimeoutStartSec=41s\n",
        );
        assert_eq!(of(root, "a.service"), Some((Some(41), Some(60))));
        write(
            root,
            "usr/lib/systemd/system/a.service.d/50.conf",
            "[Service]\nTimeoutSec = infinity\n",
        );
        assert_eq!(of(root, "a.service"), Some((None, None)));
        write(
            root,
            "etc/systemd/system/a.service.d/60.conf",
            "[Service]\nTimeoutStopSec=20\n",
        );
        assert_eq!(of(root, "a.service"), Some((None, Some(20))));
        // Masked by one of the same name, and the whole unit replaced.
        write(root, "etc/systemd/system/a.service.d/50.conf", "");
        write(
            root,
            "etc/systemd/system/service.d/70.conf",
            "[Service]\nTimeoutStopSec=21\n",
        );
        write(
            root,
            "run/systemd/system/a.service",
            "[Service]\nTimeoutStartSec=0\n",
        );
        assert_eq!(of(root, "a.service"), Some((None, Some(21))));
        write(
            root,
            "etc/systemd/system/a.service.d/80.conf",
            "[Service]\nTimeoutStopSec=soon\n",
        );
        assert_eq!(of(root, "a.service"), None);
    }

    #[test]
    fn an_instance_has_its_templates_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(
            root,
            "usr/lib/systemd/system/a@.service",
            "[Service]\nTimeoutStopSec=7\n",
        );
        assert_eq!(of(root, "a@x.service"), Some((Some(90), Some(7))));
        write(
            root,
            "etc/systemd/system/a@.service.d/1.conf",
            "[Service]\nTimeoutStartSec=8\n",
        );
        write(
            root,
            "etc/systemd/system/a@x.service.d/1.conf",
            "[Service]\nTimeoutStartSec=9\n",
        );
        assert_eq!(of(root, "a@x.service"), Some((Some(9), Some(7))));
    }
}
