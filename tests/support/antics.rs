//! What the probe does in place of a service or before it becomes one, when it is tried or executed for a reload
//! and a file beside it, `<program>.main`, has one of these words:
//!
//! - `exit`, `crash`: ends at once, by code 3 or by a signal
//! - `hang`: says so, and does nothing more
//! - `newer`: becomes the same program that finds a state of a version it cannot know
//! - `older`: the same, where the state is not for the oldest programs of all
//! - `full`: opens as many files as it may, when it is about to take over
//! - `thread`: starts a thread that stays, and becomes the service
//! - `wait`: waits for the file `<program>.go`, when it is about to take over

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, exit};
use std::thread::{Builder, park, sleep};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const STATE: &str = "PAYLOAD_ADOPT";
/// The probe has been here.
const DONE: &str = "PAYLOAD_TEST_ANTICS";

/// The files that `full` leaves open.
#[derive(Default)]
pub(crate) struct Antics(#[expect(dead_code, reason = "held open")] Vec<File>);

/// To be called first in `main`; what it gives back is to be kept.
#[expect(clippy::print_stderr, reason = "it is to be heard")]
pub(crate) fn perform() -> Antics {
    let Some(state) = std::env::var_os(STATE) else {
        return Antics::default();
    };
    // And does not get back what it had given.
    let others = ["PAYLOAD_PREFLIGHT", "PAYLOAD_REJECTED"];
    let takes_over = others.iter().all(|name| std::env::var_os(name).is_none());
    let word = fs::read_to_string(beside("main")).unwrap_or_default();
    match word.as_str() {
        "exit" => exit(3),
        "crash" => {
            let _ = kill(Pid::this(), Signal::SIGILL);
        }
        "hang" => loop {
            eprintln!("hanging");
            park();
        },
        "newer" if std::env::var_os(DONE).is_none() => {
            let error = become_older(&state);
            eprintln!("{error}");
        }
        "older" if std::env::var_os(DONE).is_none() && oldest_reader(&state) > Some(1) => {
            let error = become_older(&state);
            eprintln!("{error}");
        }
        "thread" => {
            // One that cannot be started is missed by the test.
            let _ = Builder::new().name("indexer".to_owned()).spawn(park);
        }
        "full" if takes_over => {
            let files = std::iter::from_fn(|| File::open("/dev/null").ok());
            return Antics(files.collect());
        }
        "wait" if takes_over => {
            while !beside("go").exists() {
                sleep(Duration::from_millis(5));
            }
        }
        _ => {}
    }
    Antics::default()
}

fn beside(extension: &str) -> PathBuf {
    let program = std::env::args_os().next().unwrap_or_default();
    PathBuf::from(program).with_extension(extension)
}

fn oldest_reader(state: &OsString) -> Option<u64> {
    let text = fs::read(format!("/proc/self/fd/{}", state.display())).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&text).ok()?;
    state["oldest_reader"].as_u64()
}

/// Executes this program again, with a state that a later version has written.
fn become_older(state: &OsString) -> std::io::Error {
    let newer = || {
        let text = fs::read(format!("/proc/self/fd/{}", state.display()))?;
        let mut state: serde_json::Value = serde_json::from_slice(&text)?;
        state["version"] = 99.into();
        state["oldest_reader"] = 99.into();
        state["written_by"] = "99.0.0".into();
        // Without MFD_CLOEXEC: it is inherited.
        let mut file = File::from(memfd_create("newer", MFdFlags::empty())?);
        file.write_all(&serde_json::to_vec(&state)?)?;
        file.rewind()?;
        Ok::<_, std::io::Error>(file)
    };
    match newer() {
        Err(error) => error,
        Ok(file) => Command::new("/proc/self/exe")
            .arg0(std::env::args_os().next().unwrap_or_default())
            .args(std::env::args_os().skip(1))
            .env(STATE, file.as_raw_fd().to_string())
            .env(DONE, "1")
            .exec(),
    }
}
