//! The programs of a reload: the one on disk, the one that runs, the one before it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::core::Exit;
use super::state::{Program, Verdict};
use crate::config::Snapshot;
use crate::sys::exec::{Executable, pipe};

/// What the arbiter knows of its own and other programs.
pub(crate) struct Images {
    pub(super) program: Program,
    /// What the configuration of this image was made of.
    pub(super) configuration: Snapshot,
    /// Until the commit: the program to go back to, and its configuration.
    pub(super) last: Option<(Executable, Snapshot)>,
    /// Checked, and to be executed.
    pub(super) next: Option<Executable>,
    pub(super) check: Option<Check>,
}

impl Images {
    pub(crate) fn new(program: Program, configuration: Snapshot) -> Self {
        Self {
            program,
            configuration,
            last: None,
            next: None,
            check: None,
        }
    }
}

impl Program {
    /// This process's own: call it at the very start, with the arguments as they were given.
    ///
    /// The path is that of the first argument, or where PATH has it, if it leads to this program: a link that is
    /// changed for a new release is followed anew at each reload. Else it is where the kernel found the program.
    pub(crate) fn this(arguments: Vec<OsString>) -> Self {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let called = arguments
            .first()
            .and_then(|name| called(Path::new(name), &folders, is_this));
        let path = called
            .unwrap_or_else(|| without_mark(fs::read_link("/proc/self/exe").unwrap_or_default()));
        Self {
            path: path.into(),
            arguments,
        }
    }
}

/// The path that a shell would have taken for `name`, if it is right.
fn called(name: &Path, folders: &OsStr, right: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let candidates = if name.as_os_str().as_bytes().contains(&b'/') {
        vec![name.to_owned()]
    } else {
        std::env::split_paths(folders)
            .map(|folder| folder.join(name))
            .collect()
    };
    candidates
        .iter()
        .filter_map(|path| std::path::absolute(path).ok())
        .find(|path| right(path))
}

fn is_this(path: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let own = identity(Path::new("/proc/self/exe"));
    own.is_some() && own == identity(path)
}

/// The kernel's mark for a file that was removed or replaced, proc_pid_exe(5).
fn without_mark(path: PathBuf) -> PathBuf {
    let bytes = path.into_os_string().into_vec();
    let end = bytes
        .strip_suffix(b" (deleted)")
        .map_or(bytes.len(), <[u8]>::len);
    OsString::from_vec(bytes[..end].to_vec()).into()
}

/// The check of a program that is running in a child.
pub(super) struct Check {
    pub(super) pid: u32,
    program: Executable,
    path: PathBuf,
    verdict: OwnedFd,
    stderr: OwnedFd,
}

/// How much of what a tried program prints is looked at.
const MOST: u64 = 64 * 1024;

impl Check {
    /// Starts the program on disk with the state to look at.
    ///
    /// # Errors
    /// In one line: it is not there, or is no program for this machine.
    pub(super) fn start(program: &Program, state: &OwnedFd) -> Result<Self, String> {
        let path = PathBuf::from(&program.path);
        let failed = |error: io::Error| {
            let cure = match error.raw_os_error() {
                Some(nix::libc::ENOEXEC) => {
                    ": it is no program, or damaged, or made for another machine"
                }
                Some(nix::libc::EACCES) => ": is it executable?",
                _ => "",
            };
            format!("{} cannot be executed: {error}{cure}", path.display())
        };
        let executable = Executable::open(&path).map_err(failed)?;
        let failed = |error: io::Error| match error.raw_os_error() {
            // It is there, and closes before an interpreter could open it: execveat(2).
            Some(nix::libc::ENOENT) => format!(
                "{} cannot be executed: a script, or its loader is missing; let the path lead to the program itself",
                path.display()
            ),
            _ => failed(error),
        };
        let (verdict, verdict_end) = pipe().map_err(failed)?;
        let (stderr, stderr_end) = pipe().map_err(failed)?;
        let variables = super::state::preflight_variables(state, &verdict_end);
        let pid = executable
            .spawn(
                &program.arguments,
                &variables,
                &[state.as_fd(), verdict_end.as_fd()],
                stderr_end,
            )
            .map_err(failed)?;
        Ok(Self {
            pid,
            program: executable,
            path,
            verdict,
            stderr,
        })
    }

    /// It has ended: what it came to.
    ///
    /// # Errors
    /// Why it cannot take over, in one line.
    pub(super) fn judge(self, exit: Exit) -> Result<Executable, String> {
        let said = read(self.verdict);
        if let Ok(verdict) = serde_json::from_slice::<Verdict>(&said) {
            return match verdict.error {
                None if exit.is_clean() => Ok(self.program),
                None => Err(format!(
                    "the check of {} ended with {exit}",
                    self.path.display()
                )),
                Some(error) => Err(error),
            };
        }
        let printed = String::from_utf8_lossy(&read(self.stderr)).into_owned();
        let why = match (panic_of(&printed), last_line(&printed)) {
            (Some(panic), _) => format!("it panicked: {panic}"),
            (None, Some(line)) => format!(
                "is it a service made with payload? Its last words: {}",
                line.trim()
            ),
            (None, None) => "is it a service made with payload?".to_owned(),
        };
        Err(format!(
            "{} did not pass its check: it ended with {exit} and without a verdict; {why}",
            self.path.display()
        ))
    }
}

/// What std's hook has printed of the last panic, in one line: where, and with what words. Behind it stands how to get
/// a backtrace, or one.
fn panic_of(printed: &str) -> Option<String> {
    let lines: Vec<&str> = printed.lines().collect();
    let begin = lines
        .iter()
        .rposition(|line| line.contains(" panicked at "))?;
    let is_over = |line: &str| line.starts_with("stack backtrace:") || line.starts_with("note: ");
    let words = lines[begin..].iter().map(|line| line.trim());
    let words: Vec<&str> = words
        .take_while(|line| !is_over(line))
        .filter(|line| !line.is_empty())
        .collect();
    Some(words.join(" "))
}

fn last_line(printed: &str) -> Option<&str> {
    printed.lines().rev().find(|line| !line.trim().is_empty())
}

/// What is in a pipe now.
fn read(pipe: OwnedFd) -> Vec<u8> {
    let mut content = Vec::new();
    // What came before it would block is what there is.
    let _ = fs::File::from(pipe).take(MOST).read_to_end(&mut content);
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_the_one_that_was_called() {
        let right = |path: &Path| path.starts_with("/opt");
        let found = |name: &str| called(Path::new(name), OsStr::new("/usr/bin:/opt/bin"), right);
        assert_eq!(found("/opt/current/app"), Some("/opt/current/app".into()));
        assert_eq!(found("app"), Some("/opt/bin/app".into()));
        // As `exec -a` gives it: the name says nothing about the program.
        assert_eq!(found("/usr/bin/other"), None);
    }

    #[test]
    fn a_panic_is_found_before_what_stands_behind_it() {
        let told = "starting\n\nthread 'main' (7) panicked at src/main.rs:152:5:\nbroken\nbinary\n\
            note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        let panic = "thread 'main' (7) panicked at src/main.rs:152:5: broken binary";
        assert_eq!(panic_of(told).as_deref(), Some(panic));
        let traced = told.replace("note: run", "stack backtrace:\n   0: main\nnote: Some");
        assert_eq!(panic_of(&traced).as_deref(), Some(panic));
        assert_eq!(panic_of("no such file\n"), None);
        assert_eq!(last_line("no such file\n\n"), Some("no such file"));
    }

    #[test]
    fn the_mark_of_a_removed_file_is_no_part_of_its_path() {
        let path = |path: &str| without_mark(path.into());
        assert_eq!(path("/bin/app (deleted)"), Path::new("/bin/app"));
        assert_eq!(path("/bin/app"), Path::new("/bin/app"));
    }
}
