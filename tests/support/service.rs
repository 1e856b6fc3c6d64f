//! A service of payload as a child of the test: started, watched, asked, signalled, and ended with the test.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::eventually;
use super::http::Client;

/// For what takes the service a moment, however busy the machine is.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// How a service is to be started.
pub(crate) struct Setup {
    folder: TempDir,
    configuration: String,
    /// The command that becomes the service, or starts it.
    through: Vec<String>,
    user: Option<u32>,
}

/// A running service. Dropping it kills it and all its processes.
pub(crate) struct Service {
    /// Not reaped before the drop: until then its process group's number is nobody else's.
    child: Child,
    log: Arc<Log>,
    folder: TempDir,
}

/// What a service has logged so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    records: Vec<Record>,
    ended: bool,
}

/// One line of the log: an object, or a string where it was none.
#[derive(Clone)]
pub(crate) struct Record(pub(crate) Value);

/// A process of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) name: String,
    /// As proc_pid_stat(5) has it.
    pub(crate) state: char,
    /// User and system time, in clock ticks.
    pub(crate) ticks: u64,
}

/// The test service of `probe.rs`, which `cargo test` builds and `cargo test --test …` does not.
pub(crate) fn probe() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_payload")).parent();
    let path = folder.expect("a folder").join("examples/probe");
    assert!(
        path.exists(),
        "{} is missing: run cargo build --examples",
        path.display()
    );
    path
}

impl Setup {
    /// With this configuration file.
    pub(crate) fn new(configuration: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            configuration: configuration.to_owned(),
            through: Vec::new(),
            user: None,
        }
    }

    /// A folder of the service's own, which its configuration can name.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts keys in front of the configuration.
    pub(crate) fn with(mut self, lines: &str) -> Self {
        self.configuration.insert_str(0, &format!("{lines}\n"));
        self
    }

    /// The file of the probe's `steer` setting, which is there only when a test writes it.
    pub(crate) fn steered(mut self) -> Self {
        let file = self.folder().join("steer");
        write!(self.configuration, "\nsteer = '{}'\n", file.display()).unwrap();
        self
    }

    /// Starts the service by another program, which gets its command line behind these arguments.
    pub(crate) fn through(mut self, command: &[&str]) -> Self {
        self.through = command.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// Runs it as another user, who owns its folder. Only root can do that.
    pub(crate) fn under_user(mut self, user: u32) -> Self {
        let under_user = format!("setpriv --reuid={user} --regid={user} --clear-groups --");
        let words = under_user.split(' ').map(str::to_owned);
        self.through.splice(0..0, words);
        self.user = Some(user);
        self
    }

    /// Starts the probe. Returns when there is a process, not when it serves.
    pub(crate) fn start(self) -> Service {
        let Self {
            folder,
            configuration,
            through,
            user,
        } = self;
        let file = folder.path().join("payload.toml");
        fs::write(&file, configuration).unwrap();
        let program = match user {
            None => probe(),
            Some(user) => hand_over(folder.path(), user),
        };
        let mut command = match through.split_first() {
            None => Command::new(program),
            Some((other, arguments)) => {
                let mut command = Command::new(other);
                command.args(arguments).arg(program);
                command
            }
        };
        command
            .args(["--log-format", "json", "--listen", "127.0.0.1:0"])
            .arg("--config")
            .arg(file)
            .arg("--control")
            .arg(folder.path().join("control"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().expect("the service can be started");
        let log = Arc::new(Log::default());
        let lines = child.stderr.take().expect("a pipe");
        thread::spawn({
            let log = log.clone();
            move || log.read(lines)
        });
        Service { child, log, folder }
    }

    /// Starts it and waits until every worker serves.
    #[track_caller]
    pub(crate) fn serve(self) -> Service {
        let service = self.start();
        service.event("service-ready");
        service
    }
}

impl Service {
    /// The process that was started.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process that was started.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    /// The first record with this `payload_event`.
    #[track_caller]
    pub(crate) fn event(&self, name: &str) -> Record {
        self.record(name, |record| record.is(name))
    }

    /// The first record with this `payload_event` that fits.
    #[track_caller]
    pub(crate) fn event_where(&self, name: &str, fits: impl Fn(&Record) -> bool) -> Record {
        self.record(name, |record| record.is(name) && fits(record))
    }

    /// The first record that fits.
    #[track_caller]
    pub(crate) fn record(&self, what: &str, fits: impl Fn(&Record) -> bool) -> Record {
        self.log.wait(what, |records| {
            records.iter().find(|record| fits(record)).cloned()
        })
    }

    /// Waits until so many records fit.
    #[track_caller]
    pub(crate) fn count(
        &self,
        what: &str,
        number: usize,
        fits: impl Fn(&Record) -> bool,
    ) -> Vec<Record> {
        self.log.wait(what, |records| {
            let found: Vec<Record> = records.iter().filter(|r| fits(r)).cloned().collect();
            (found.len() >= number).then_some(found)
        })
    }

    /// Everything that was logged until now.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.log.lines.lock().unwrap().records.clone()
    }

    /// Waits for the end of the service and of its log; gives the exit code.
    #[track_caller]
    pub(crate) fn exit(&self) -> i32 {
        let code = self.exit_of_first();
        self.log.wait_for_end();
        every_start_has_one_end(&self.records());
        code
    }

    /// Waits for the end of the process that was started; its workers may live on.
    #[track_caller]
    pub(crate) fn exit_of_first(&self) -> i32 {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let ended = eventually("the end of the service", LIMIT, || {
            Some(waitid(Id::Pid(pid), flags).unwrap())
                .filter(|status| *status != WaitStatus::StillAlive)
        });
        match ended {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            other => panic!("{other:?}"),
        }
    }

    /// Stops it with SIGTERM and waits; gives the exit code.
    #[track_caller]
    pub(crate) fn stop(&self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.exit()
    }

    /// `payload status --json`.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        eventually("an answer from the control socket", LIMIT, || {
            let output = Command::new(probe())
                .args(["status", "--json", "--control"])
                .arg(self.folder.path().join("control"))
                .env_clear()
                .output()
                .unwrap();
            output
                .status
                .success()
                .then(|| serde_json::from_slice(&output.stdout).unwrap())
        })
    }

    /// Waits until the status is as it should become.
    #[track_caller]
    pub(crate) fn status_where(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(what, LIMIT, || {
            Some(self.status()).filter(|status| fits(status))
        })
    }

    /// The first listening socket's address, also before the service is ready.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        let listening = self.record("where it listens", |record| {
            record.text("message").contains("listening on http://")
        });
        let (_, address) = listening.text("message").rsplit_once('/').unwrap();
        address.parse().unwrap()
    }

    /// A new connection.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address()).expect("no connection is refused")
    }

    /// The body of a page, over a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> String {
        let response = self.client().get(path).expect("an answer");
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        response.body
    }

    /// The pids of the workers that serve, by slot.
    #[track_caller]
    pub(crate) fn workers(&self) -> Vec<u32> {
        let status = self.status();
        let workers = status["workers"].as_array().unwrap().iter();
        workers
            .filter(|worker| worker["phase"] == "serving")
            .map(|worker| number(&worker["pid"]))
            .collect()
    }

    /// Every process of the service that lives, the arbiter included.
    pub(crate) fn processes(&self) -> Vec<Process> {
        processes()
            .into_iter()
            .filter(|(group, process)| *group == self.pid() && process.state != 'Z')
            .map(|(_, process)| process)
            .collect()
    }

    /// Waits until none of its processes lives.
    #[track_caller]
    pub(crate) fn gone(&self) {
        eventually("the end of all processes", LIMIT, || {
            self.processes().is_empty().then_some(())
        });
    }

    /// Writes the file of [`Setup::steered`].
    pub(crate) fn steer(&self, app: &str) {
        // In one step, so that nobody reads half of it.
        let new = self.folder.path().join("steer.new");
        fs::write(&new, app).unwrap();
        fs::rename(new, self.folder.path().join("steer")).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        // A worker that is stopped or blocked dies too.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
        if thread::panicking() {
            self.log.print();
        }
    }
}

impl Log {
    fn read(&self, lines: ChildStderr) {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            let record = serde_json::from_str(&line).unwrap_or(Value::String(line));
            self.lines.lock().unwrap().records.push(Record(record));
            self.more.notify_all();
        }
        self.lines.lock().unwrap().ended = true;
        self.more.notify_all();
    }

    /// Ends early when nothing more can come.
    #[track_caller]
    fn wait<T>(&self, what: &str, found: impl Fn(&[Record]) -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(found) = found(&lines.records) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.ended {
                drop(lines);
                panic!("not in the log: {what}");
            }
            lines = self.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    #[track_caller]
    fn wait_for_end(&self) {
        let lines = self.lines.lock().unwrap();
        let (lines, _) = self
            .more
            .wait_timeout_while(lines, LIMIT, |lines| !lines.ended)
            .unwrap();
        let ended = lines.ended;
        drop(lines);
        assert!(ended, "the log goes on: a process is left");
    }

    fn print(&self) {
        let lines = match self.lines.lock() {
            Ok(lines) => lines,
            Err(poisoned) => poisoned.into_inner(),
        };
        for Record(record) in &lines.records {
            eprintln!("  {record}");
        }
    }
}

impl Record {
    pub(crate) fn is(&self, event: &str) -> bool {
        self.0["payload_event"] == event
    }

    /// Empty: there is no such field.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn number(&self, field: &str) -> u32 {
        number(&self.0[field])
    }

    #[track_caller]
    pub(crate) fn seconds(&self, field: &str) -> f64 {
        self.0[field].as_f64().expect("a number")
    }

    /// Which worker it is about, or comes from.
    pub(crate) fn worker(&self) -> Option<u64> {
        self.0["payload_worker"].as_u64()
    }

    /// When it was written, in seconds of its day.
    pub(crate) fn time(&self) -> f64 {
        let time = self.text("time");
        let (_, clock) = time.trim_end_matches('Z').split_once('T').unwrap();
        clock
            .split(':')
            .map(|part| part.parse::<f64>().unwrap())
            .fold(0.0, |sum, part| sum * 60.0 + part)
    }
}

#[track_caller]
pub(crate) fn number(value: &Value) -> u32 {
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.unwrap_or_else(|| panic!("no number: {value}"))
}

/// To a process that is known to live, or at least not to be reaped.
#[track_caller]
pub(crate) fn signal_to(pid: u32, signal: Signal) {
    assert!(pid > 1);
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).expect("the process is there");
}

/// Whether a process lives; one that waits to be reaped does not.
pub(crate) fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|(_, process)| process.state != 'Z')
}

/// Waits for the end of a process that is no child of the test.
#[track_caller]
pub(crate) fn wait_for_end_of(pid: u32) {
    eventually(&format!("the end of process {pid}"), LIMIT, || {
        (!lives(pid)).then_some(())
    });
}

/// One record for each worker's start, and one for its end.
#[track_caller]
fn every_start_has_one_end(records: &[Record]) {
    let of = |names: &[&str]| {
        let named = |record: &&Record| names.iter().any(|name| record.is(name));
        let mut workers: Vec<_> = records
            .iter()
            .filter(named)
            .map(|r| r.worker().expect("a worker"))
            .collect();
        workers.sort_unstable();
        workers
    };
    let (started, ended) = (
        of(&["worker-forked"]),
        of(&["worker-exited", "worker-failed"]),
    );
    assert_eq!(started, ended, "workers that started, and that ended");
}

/// Each process with its process group.
fn processes() -> Vec<(u32, Process)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

/// proc_pid_stat(5)
pub(crate) fn stat(pid: u32) -> Option<(u32, Process)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (start, rest) = text.rsplit_once(") ")?;
    let (_, name) = start.split_once(" (")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let process = Process {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        name: name.to_owned(),
        state: fields.first()?.chars().next()?,
        ticks: number(11)? + number(12)?,
    };
    Some((u32::try_from(number(2)?).ok()?, process))
}

/// Gives the folder to the user, with a program that he can reach in it.
fn hand_over(folder: &Path, user: u32) -> PathBuf {
    let program = folder.join("probe");
    fs::copy(probe(), &program).unwrap();
    for path in [folder, &folder.join("payload.toml")] {
        chown(path, Some(user), Some(user)).unwrap();
    }
    program
}
