//! A machine's place in the host's cgroup trees.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What machines are called, before the pid of the process that booted them.
pub(crate) const PREFIX: &str = "payload-test-";

/// One cgroup in every tree that systemd uses: v2, and beside it the named v1 tree on a hybrid host.
pub(crate) struct Group {
    /// The one in the v2 tree comes first.
    folders: Vec<PathBuf>,
}

impl Group {
    /// Makes it.
    pub(crate) fn new(name: &str) -> Self {
        let trees = mounted().expect("cgroup trees");
        for tree in &trees {
            sweep(tree);
        }
        let folders: Vec<PathBuf> = trees.iter().map(|tree| tree.join(name)).collect();
        for folder in &folders {
            fs::create_dir(folder)
                .unwrap_or_else(|error| panic!("make {}: {error}", folder.display()));
        }
        Self { folders }
    }

    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The first process of a cgroup below this one, once there is one.
    pub(crate) fn first_process(&self, below: &str) -> Option<u32> {
        let list = fs::read_to_string(self.folders[0].join(below).join("cgroup.procs")).ok()?;
        list.lines().next()?.parse().ok()
    }
}

impl Drop for Group {
    /// Waits for the last process to be gone, then removes the whole subtree. Must not panic: it may run while
    /// a panic unwinds.
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.folders.iter().all(|folder| remove(folder).is_ok()) && Instant::now() < end {
            sleep(Duration::from_millis(5));
        }
    }
}

/// Where the trees are mounted, v2 first.
pub(crate) fn mounted() -> Result<Vec<PathBuf>, String> {
    let table = fs::read_to_string("/proc/self/mounts")
        .map_err(|error| format!("/proc/self/mounts: {error}"))?;
    let mounts = || {
        table.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
    };
    let (v2, _, options) = mounts()
        .find(|(_, kind, _)| *kind == "cgroup2")
        .ok_or("they need cgroup v2 mounted")?;
    if options.split(',').any(|option| option == "ro") {
        return Err(format!(
            "they need cgroup v2 writable, and {v2} is mounted read-only"
        ));
    }
    let named =
        mounts().filter(|(_, kind, options)| *kind == "cgroup" && options.contains("name=systemd"));
    Ok([PathBuf::from(v2)]
        .into_iter()
        .chain(named.map(|(path, _, _)| path.into()))
        .collect())
}

/// Removes what test processes that were killed have left behind.
fn sweep(tree: &Path) {
    for entry in fs::read_dir(tree).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a tree of cgroups, deepest first. An absent one is fine.
fn remove(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
