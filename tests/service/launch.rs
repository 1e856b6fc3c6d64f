//! The service as a test starts it, asks it, and ends it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{DEADLINE, eventually};

/// What this machine's surroundings may say to any service, and must not say to these.
const FOREIGN: [&str; 10] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "JOURNAL_STREAM",
    "RUNTIME_DIRECTORY",
    "XDG_RUNTIME_DIR",
    "PORT",
    "WEB_CONCURRENCY",
];

/// The service to be: with two workers at most, on a port of its own, its records as JSON on a pipe.
pub(crate) struct Launch {
    binary: PathBuf,
    before: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    app: String,
    workers: Option<usize>,
    listen: Option<String>,
    control: Option<PathBuf>,
    format: &'static str,
    stderr: Option<Stdio>,
    directory: TempDir,
}

/// A running service. Killed with everything it has forked when it is dropped.
pub(crate) struct Service {
    child: Child,
    code: Option<i32>,
    control: PathBuf,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    address: OnceLock<SocketAddr>,
    _directory: TempDir,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

/// `payload` with these arguments and a clean environment, for what ends by itself.
pub(crate) fn payload(arguments: &[&str]) -> Command {
    let mut command = clean(Path::new(env!("CARGO_BIN_EXE_payload")));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn probe() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_payload")).parent();
    folder.expect("a folder").join("examples/probe")
}

fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let ours = name.to_string_lossy().starts_with("PAYLOAD_");
        if ours || FOREIGN.iter().any(|foreign| name == *foreign) {
            command.env_remove(&name);
        }
    }
    command
}

impl Launch {
    /// The binary that is shipped.
    pub(crate) fn payload() -> Self {
        Self::of(env!("CARGO_BIN_EXE_payload").into())
    }

    /// The service that does as it is told, see `support/probe.rs`.
    pub(crate) fn probe() -> Self {
        Self::of(probe())
    }

    fn of(binary: PathBuf) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self {
            binary,
            before: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            app: String::new(),
            workers: Some(2),
            listen: Some("127.0.0.1:0".to_owned()),
            control: Some(directory.path().join("control.sock")),
            format: "json",
            stderr: None,
            directory,
        }
    }

    pub(crate) fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    pub(crate) fn default_workers(mut self) -> Self {
        self.workers = None;
        self
    }

    pub(crate) fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    pub(crate) fn without_listen(mut self) -> Self {
        self.listen = None;
        self
    }

    pub(crate) fn control(mut self, path: &Path) -> Self {
        self.control = Some(path.to_owned());
        self
    }

    pub(crate) fn without_control(mut self) -> Self {
        self.control = None;
        self
    }

    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The lines of the `[app]` table.
    pub(crate) fn app(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.app);
        self
    }

    /// Lines for people instead of JSON.
    pub(crate) fn human(mut self) -> Self {
        self.format = "human";
        self
    }

    /// Standard error goes there, and the test hears nothing of it.
    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Another program starts the service: it gets the whole command line behind its own arguments.
    pub(crate) fn behind(mut self, command: &[&str]) -> Self {
        self.before = command.iter().map(|&part| part.to_owned()).collect();
        self
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub(crate) fn serve(self) -> Service {
        let mut service = self.spawn();
        let end = Instant::now() + DEADLINE;
        loop {
            if service
                .try_status()
                .is_some_and(|status| status["arbiter"]["state"] == "ready")
            {
                return service;
            }
            let ended = service.child.try_wait().expect("wait").is_some();
            assert!(
                !ended && Instant::now() < end,
                "the service does not serve:\n{}",
                service.log_so_far()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it and waits for nothing.
    #[track_caller]
    pub(crate) fn spawn(self) -> Service {
        let configuration = self.directory.path().join("service.toml");
        fs::write(&configuration, format!("[app]\n{}\n", self.app)).expect("write");
        let mut line = self.before;
        line.push(self.binary.to_str().expect("UTF-8").to_owned());
        let mut command = clean(Path::new(&line[0]));
        command.args(&line[1..]);
        if !self.app.is_empty() {
            command.arg("--config").arg(configuration);
        }
        command.arg(format!("--log-format={}", self.format));
        for (flag, value) in [
            ("--workers", self.workers.map(|count| count.to_string())),
            ("--listen", self.listen),
            (
                "--control",
                self.control.as_ref().map(|path| path.display().to_string()),
            ),
        ] {
            command.args(value.map(|value| format!("{flag}={value}")));
        }
        let given = self.stderr.is_some();
        let mut child = command
            .args(self.arguments)
            .envs(self.environment)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.stderr.unwrap_or_else(Stdio::piped))
            .spawn()
            .expect("start the service");
        // It holds the test's descriptor of a given standard error otherwise.
        drop(command);
        let log = Arc::new(Log::default());
        let reader = child.stderr.take().filter(|_| !given).map(|stderr| {
            let log = log.clone();
            std::thread::spawn(move || log.read(stderr))
        });
        Service {
            child,
            code: None,
            control: self.control.unwrap_or_default(),
            log,
            reader,
            address: OnceLock::new(),
            _directory: self.directory,
        }
    }
}

/// Processes and their end.
impl Service {
    /// The arbiter.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        assert_eq!(self.code, None, "it has ended");
        kill(process(self.pid()), signal).expect("kill");
    }

    /// What a terminal does at Ctrl-C: the arbiter and the workers get it.
    pub(crate) fn interrupt_group(&self) {
        assert_eq!(self.code, None, "it has ended");
        killpg(process(self.pid()), Signal::SIGINT).expect("killpg");
    }

    /// To one of its workers.
    #[track_caller]
    pub(crate) fn signal_worker(&self, pid: u32, signal: Signal) {
        assert!(
            self.pids().contains(&pid),
            "{pid} is a worker of this service"
        );
        kill(process(pid), signal).expect("kill");
    }

    /// Waits for the arbiter's end.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> i32 {
        let end = Instant::now() + DEADLINE;
        while self.code.is_none() {
            if let Some(status) = self.child.try_wait().expect("wait") {
                let code = status.code();
                self.code =
                    Some(code.unwrap_or_else(|| panic!("{status}:\n{}", self.log_so_far())));
            }
            assert!(
                Instant::now() < end,
                "it does not end:\n{}",
                self.log_so_far()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader");
        }
        self.code.expect("it has ended")
    }
}

/// What it says about itself.
impl Service {
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// `payload status` for this service.
    pub(crate) fn status_command(&self, arguments: &[&str]) -> Command {
        let mut command = payload(&["status"]);
        command.args(arguments).arg("--control").arg(&self.control);
        command
    }

    /// Its status, asked without a process for each question.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        eventually("the service says its status", DEADLINE, || {
            self.try_status()
        })
    }

    fn try_status(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(&self.control).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.write_all(b"{\"command\":\"status\"}\n").ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        let mut answer: Value = serde_json::from_str(&answer).ok()?;
        answer.get_mut("status").map(Value::take)
    }

    #[track_caller]
    fn wait_for_status<T>(&self, what: &str, probe: impl Fn(&Value) -> Option<T>) -> T {
        let mut last = Value::Null;
        let end = Instant::now() + DEADLINE;
        loop {
            last = self.try_status().unwrap_or(last);
            if let Some(answer) = probe(&last) {
                return answer;
            }
            assert!(
                Instant::now() < end,
                "not within {DEADLINE:?}: {what}\n{last:#}\n{}",
                self.log_so_far()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it listens.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        *self.address.get_or_init(|| {
            let address = self.status()["sockets"][0]["address"].clone();
            let parsed = address.as_str().and_then(|address| address.parse().ok());
            parsed.unwrap_or_else(|| panic!("an address: {address}"))
        })
    }

    #[track_caller]
    pub(crate) fn workers(&self) -> Vec<Value> {
        self.status()["workers"].as_array().expect("a list").clone()
    }

    /// The workers' pids, by slot.
    #[track_caller]
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.counts("pid")
            .into_iter()
            .map(|pid| u32::try_from(pid).expect("a pid"))
            .collect()
    }

    /// One number of each worker, by slot.
    #[track_caller]
    pub(crate) fn counts(&self, key: &str) -> Vec<u64> {
        let count = |worker: &Value| worker[key].as_u64().expect("a number");
        self.workers().iter().map(count).collect()
    }

    #[track_caller]
    pub(crate) fn sum(&self, key: &str) -> u64 {
        self.counts(key).iter().sum()
    }

    /// The worker that is answering something.
    #[track_caller]
    pub(crate) fn busy_pid(&self) -> u32 {
        self.wait_for_status("a busy worker", |status| {
            let busy = workers_of(status)
                .iter()
                .find(|worker| worker["in_flight"] != 0)?;
            u32::try_from(busy["pid"].as_u64()?).ok()
        })
    }

    /// Waits until a number of all workers together is this.
    #[track_caller]
    pub(crate) fn wait_for_sum(&self, key: &str, wanted: u64) {
        self.wait_for_status(&format!("{key} is {wanted}"), |status| {
            let sum: u64 = workers_of(status)
                .iter()
                .filter_map(|worker| worker[key].as_u64())
                .sum();
            (sum == wanted).then_some(())
        });
    }

    /// Waits until there are so many workers and all of them serve.
    #[track_caller]
    pub(crate) fn wait_until_serving(&self, count: usize) {
        self.wait_for_status(&format!("{count} workers serve"), |status| {
            let workers = workers_of(status);
            let all = workers.iter().all(|worker| worker["phase"] == "serving");
            (all && workers.len() == count).then_some(())
        });
    }

    /// Waits until this worker is gone and its successor serves.
    #[track_caller]
    pub(crate) fn wait_until_replaced(&self, pid: u32) {
        self.wait_for_status(&format!("{pid} is replaced"), |status| {
            let workers = workers_of(status);
            let gone = workers.iter().all(|worker| worker["pid"] != pid);
            let all = workers.iter().all(|worker| worker["phase"] == "serving");
            let complete = status["arbiter"]["workers"] == workers.len();
            (gone && all && complete).then_some(())
        });
    }

    /// Waits until the worker of a slot has got there.
    #[track_caller]
    pub(crate) fn wait_for_phase(&self, slot: usize, phase: &str) {
        self.wait_for_status(&format!("slot {slot} is {phase}"), |status| {
            (workers_of(status).get(slot)?["phase"] == phase).then_some(())
        });
    }
}

/// What it has logged.
impl Service {
    /// Every line so far, and after [`exit_code`](Self::exit_code) every line there is.
    pub(crate) fn log_so_far(&self) -> String {
        self.log.lines.lock().expect("the log").join("\n")
    }

    /// Every JSON record so far.
    #[track_caller]
    pub(crate) fn records(&self) -> Vec<Value> {
        let lines = self.log.lines.lock().expect("the log");
        let parse = |line: &String| {
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line:?}"))
        };
        lines.iter().map(parse).collect()
    }

    /// Every lifecycle event of this name so far.
    #[track_caller]
    pub(crate) fn events(&self, name: &str) -> Vec<Value> {
        let mut records = self.records();
        records.retain(|record| record["payload_event"] == name);
        records
    }

    /// The phases that a worker has entered so far.
    #[track_caller]
    pub(crate) fn phases(&self, worker: u64) -> Vec<String> {
        let of_worker = self
            .events("worker-phase")
            .into_iter()
            .filter(|record| record["payload_worker"] == worker);
        of_worker
            .map(|record| record["phase"].as_str().expect("a phase").to_owned())
            .collect()
    }

    #[track_caller]
    pub(crate) fn wait_for_event(&self, name: &str) -> Value {
        self.wait_for_record(&format!("event {name}"), |record| {
            record["payload_event"] == name
        })
    }

    /// Waits until there were so many lifecycle events of this name.
    #[track_caller]
    pub(crate) fn wait_for_events(&self, name: &str, count: usize) {
        self.log.wait(&format!("{count} events {name}"), |lines| {
            let named = lines
                .iter()
                .filter(|line| record(line)["payload_event"] == name);
            (named.count() >= count).then_some(())
        });
    }

    /// Waits for a record whose sentence contains `text`.
    #[track_caller]
    pub(crate) fn wait_for_message(&self, text: &str) -> Value {
        self.wait_for_record(text, |record| {
            record["message"]
                .as_str()
                .is_some_and(|message| message.contains(text))
        })
    }

    #[track_caller]
    pub(crate) fn wait_for_record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.log.wait(what, |lines| {
            lines
                .iter()
                .map(|line| record(line))
                .find(|record| wanted(record))
        })
    }

    /// Waits for a line with this text.
    #[track_caller]
    pub(crate) fn wait_for_text(&self, text: &str) {
        self.log.wait(text, |lines| {
            lines.iter().any(|line| line.contains(text)).then_some(())
        });
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.code.is_none() && matches!(self.child.try_wait(), Ok(None)) {
            // The group is this service's own, and its leader has not been reaped: the number is still its.
            let _ = killpg(process(self.pid()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- the service's log\n{}\n----", self.log_so_far());
        }
    }
}

impl Log {
    fn read(&self, from: impl Read) {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            self.lines.lock().expect("the log").push(line);
            self.more.notify_all();
        }
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, probe: impl Fn(&[String]) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        let mut lines = self.lines.lock().expect("the log");
        loop {
            if let Some(answer) = probe(&lines) {
                return answer;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(lines);
                panic!("not within {DEADLINE:?}: {what}");
            }
            lines = self.more.wait_timeout(lines, left).expect("the log").0;
        }
    }
}

/// A file that a service waits for, see `gate` in `support/probe.rs`.
pub(crate) struct Gate(TempDir);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("open")
    }

    pub(crate) fn open(&self) {
        fs::write(self.path(), "").expect("write");
    }
}

fn workers_of(status: &Value) -> &[Value] {
    status["workers"].as_array().map_or(&[], Vec::as_slice)
}

fn record(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_default()
}

fn process(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a pid"))
}
