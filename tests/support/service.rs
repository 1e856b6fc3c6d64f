//! A service of payload as a child of the test: started, signalled, and ended with the test.
//!
//! What it logs is waited for in `log.rs`, what it says about itself in `status.rs`; `process.rs` sees its
//! processes, `activation.rs` passes it sockets.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use tempfile::TempDir;

pub(crate) use super::DEADLINE as LIMIT;
use super::http::Client;
use super::log::{Log, every_start_has_one_end};
pub(crate) use super::log::{Record, number};
pub(crate) use super::process::{Process, lives, signal_to, stat, wait_for_end_of};
use super::process::{group_of, number_of};
use super::program::copy_program;
use super::trace::violations;
use super::{eventually, no_birth};

/// The binary that is shipped.
const SHIPPED: &str = env!("CARGO_BIN_EXE_payload");

/// How a service is to be started: on a port of its own, its records as JSON on a pipe, in a clean environment.
pub(crate) struct Setup {
    program: PathBuf,
    folder: TempDir,
    configuration: String,
    /// The command that becomes the service, or starts it.
    through: Vec<String>,
    user: Option<u32>,
    listen: Option<String>,
    control: Option<PathBuf>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    pub(super) stdin: Stdio,
    pub(super) stdout: Stdio,
    stderr: Stdio,
    /// How many sockets it gets from the test.
    pub(super) passed: usize,
}

/// A running service. Dropping it kills it and all its processes.
pub(crate) struct Service {
    /// Not reaped before the drop: until then its process group's number is nobody else's.
    child: Child,
    control: PathBuf,
    pub(super) log: Arc<Log>,
    folder: TempDir,
}

/// The test service of `probe.rs`, which `cargo test` builds and `cargo test --test …` does not.
pub(crate) fn probe() -> PathBuf {
    example("probe")
}

/// A program that `cargo test` builds as an example.
pub(crate) fn example(name: &str) -> PathBuf {
    let folder = Path::new(SHIPPED).parent();
    let path = folder.expect("a folder").join("examples").join(name);
    assert!(
        path.exists(),
        "{} is missing: run cargo build --examples",
        path.display()
    );
    path
}

/// The shipped binary with these arguments, for what ends by itself.
pub(crate) fn payload(arguments: &[&str]) -> Command {
    let mut command = clean(SHIPPED);
    command.args(arguments);
    command
}

/// A command beside the test, of which the end is to be looked at.
pub(crate) trait Quiet {
    fn spawn_quiet(self) -> Child;
}

impl Quiet for Command {
    fn spawn_quiet(mut self) -> Child {
        let piped = self.stdout(Stdio::piped()).stderr(Stdio::piped());
        let _alone = no_birth();
        piped.spawn().expect("the command can be started")
    }
}

/// What the surroundings of the test say to a service must not be said to this one.
fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null());
    command
}

impl Setup {
    /// The probe with this configuration file.
    pub(crate) fn new(configuration: &str) -> Self {
        Self::of(probe(), configuration)
    }

    /// The shipped binary with this configuration file.
    pub(crate) fn shipped(configuration: &str) -> Self {
        Self::of(SHIPPED.into(), configuration)
    }

    /// A service of `examples/` with this configuration file.
    pub(crate) fn example(name: &str, configuration: &str) -> Self {
        Self::of(example(name), configuration)
    }

    fn of(program: PathBuf, configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            program,
            configuration: configuration.to_owned(),
            through: Vec::new(),
            user: None,
            listen: Some("127.0.0.1:0".to_owned()),
            control: Some(folder.path().join("control")),
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::piped(),
            passed: 0,
            folder,
        }
    }

    /// A folder of the service's own, which its configuration can name.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs it from a link of its own, which the test can lead elsewhere: [`Service::program`].
    pub(crate) fn installed(mut self) -> Self {
        let link = self.folder().join("probe");
        symlink(&self.program, &link).unwrap();
        self.program = link;
        self
    }

    /// The same with a copy.
    pub(crate) fn copied(mut self) -> Self {
        let copy = self.folder().join("probe");
        copy_program(&self.program, &copy);
        self.program = copy;
        self
    }

    /// `@FOLDER@` in its configuration is its folder.
    pub(crate) fn filled_in(mut self) -> Self {
        let folder = self.folder().display().to_string();
        self.configuration = self.configuration.replace("@FOLDER@", &folder);
        self
    }

    /// Puts keys in front of the configuration.
    pub(crate) fn with(mut self, lines: &str) -> Self {
        self.configuration.insert_str(0, &format!("{lines}\n"));
        self
    }

    /// Puts more keys of `[app]` behind the configuration, which ends with that table.
    pub(crate) fn with_app(mut self, lines: &str) -> Self {
        writeln!(self.configuration, "\n{lines}").unwrap();
        self
    }

    /// The file of the probe's `steer` setting, which is there only when a test writes it.
    pub(crate) fn steered(mut self) -> Self {
        let file = self.folder().join("steer");
        write!(self.configuration, "\nsteer = '{}'\n", file.display()).unwrap();
        self
    }

    /// More of its command line. Behind the name of a command a flag wins over the one that this setup gives.
    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&word| word.to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its `--listen`.
    pub(crate) fn listen(mut self, address: Option<&str>) -> Self {
        self.listen = address.map(str::to_owned);
        self
    }

    /// Its `--control`; without it the test has no [`Service::status`].
    pub(crate) fn control(mut self, path: Option<&Path>) -> Self {
        self.control = path.map(Path::to_owned);
        self
    }

    /// Standard error goes there, and the test hears nothing of it.
    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = stderr.into();
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

    /// Starts it. Returns when there is a process, not when it serves.
    pub(crate) fn start(self) -> Service {
        let configuration = self.folder.path().join("payload.toml");
        fs::write(&configuration, &self.configuration).unwrap();
        let program = match self.user {
            None => self.program,
            Some(user) => hand_over(&self.program, self.folder.path(), user),
        };
        let mut line = self.through.iter().map(OsStr::new).collect::<Vec<_>>();
        line.push(program.as_os_str());
        let mut command = clean(line[0]);
        command
            .args(&line[1..])
            .args(["--log-format", "json", "--config"])
            .arg(configuration);
        if let Some(listen) = &self.listen {
            command.args(["--listen", listen]);
        }
        if let Some(control) = &self.control {
            command.arg("--control").arg(control);
        }
        command
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(self.stdin)
            .stdout(self.stdout)
            .stderr(self.stderr)
            .process_group(0);
        let alone = no_birth();
        let mut child = command.spawn().expect("the service can be started");
        drop(alone);
        // It holds the test's descriptors: what is passed must live in the service alone.
        drop(command);
        Service {
            log: Log::of(child.stderr.take()),
            child,
            control: self.control.unwrap_or_default(),
            folder: self.folder,
        }
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

    /// What a terminal does at Ctrl-C: the arbiter and the workers get it.
    pub(crate) fn interrupt_group(&self) {
        killpg(number_of(self.pid()), Signal::SIGINT).expect("the group is there");
    }

    /// Waits for the end of the service and of its log; gives the exit code.
    #[track_caller]
    pub(crate) fn exit(&self) -> i32 {
        let code = self.exit_of_first();
        self.log.wait_for_end();
        every_start_has_one_end(&self.records());
        self.check_trace();
        code
    }

    /// What must be true of every run is true of what was logged until now. Every service of every test is checked,
    /// at its end or where the test leaves it.
    #[track_caller]
    pub(crate) fn check_trace(&self) {
        let wrong = violations(&self.records());
        assert!(
            wrong.is_empty(),
            "by the rules of trace.rs:\n{}",
            wrong.join("\n")
        );
    }

    /// Waits for the end of the process that was started; its workers may live on.
    #[track_caller]
    pub(crate) fn exit_of_first(&self) -> i32 {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let ended = eventually("the end of the service", LIMIT, || {
            Some(waitid(Id::Pid(number_of(self.pid())), flags).unwrap())
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

    /// Its control socket.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// The first listening socket's address, also before the service is ready.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        let listening = self.message("listening on http://");
        let (_, address) = listening.text("message").rsplit_once('/').unwrap();
        address.parse().unwrap()
    }

    /// The TCP addresses on which it listens.
    #[track_caller]
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let status = self.status();
        let sockets = status["sockets"].as_array().expect("a list");
        let texts = sockets
            .iter()
            .filter_map(|socket| socket["address"].as_str());
        texts.filter_map(|text| text.parse().ok()).collect()
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

    /// The body of a page as each worker that serves gives it, by pid.
    #[track_caller]
    pub(crate) fn get_of_each(&self, path: &str) -> Vec<String> {
        let mut told = BTreeMap::new();
        let count = self.workers().len();
        eventually("an answer of every worker", LIMIT, || {
            let mut client = self.client();
            let worker = client.get("/").ok()?.number();
            told.insert(worker, client.get(path).ok()?.body);
            (told.len() == count).then_some(())
        });
        told.into_values().collect()
    }

    /// A request that the probe answers after [`Service::open_gate`], and not before: it is under way for as long as the
    /// test needs that.
    pub(crate) fn gated(&self) -> String {
        format!("/gate?file={}", self.folder().join("open").display())
    }

    /// Lets the requests of [`Service::gated`] have their answers.
    pub(crate) fn open_gate(&self) {
        self.write("open", "");
    }

    /// Every process of the service that lives, the arbiter included.
    pub(crate) fn processes(&self) -> Vec<Process> {
        group_of(self.pid())
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
        self.write("steer", app);
    }

    /// Writes its configuration file anew.
    pub(crate) fn configure(&self, configuration: &str) {
        self.write("payload.toml", configuration);
    }

    /// Writes a file of its folder, in one step, so that nobody reads half of it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.folder.path().join(name)).unwrap();
    }

    /// A folder of its own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where [`Setup::installed`] and [`Setup::copied`] have put the program.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder().join("probe")
    }

    /// `payload reload`, for this service.
    pub(crate) fn reload_command(&self) -> Command {
        let mut command = payload(&["reload"]);
        command.arg("--control").arg(&self.control);
        command
    }

    /// Runs it to its end.
    pub(crate) fn reload(&self) -> Output {
        let reload = self.reload_command().spawn_quiet();
        reload.wait_with_output().expect("payload reload")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Before the kill: what is cut off must be right as well.
        let checked =
            (!thread::panicking()).then(|| catch_unwind(AssertUnwindSafe(|| self.check_trace())));
        // A worker that is stopped or blocked dies too.
        let _ = killpg(number_of(self.child.id()), Signal::SIGKILL);
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- the service's log\n{}----", self.text());
        }
        if let Some(Err(wrong)) = checked {
            resume_unwind(wrong);
        }
    }
}

/// Gives the folder to the user, with a program that he can reach in it.
fn hand_over(program: &Path, folder: &Path, user: u32) -> PathBuf {
    let reachable = folder.join(program.file_name().unwrap());
    copy_program(program, &reachable);
    for path in [folder, &folder.join("payload.toml")] {
        chown(path, Some(user), Some(user)).unwrap();
    }
    reachable
}
