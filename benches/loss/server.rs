//! The servers that the clients can be put against, each with the same routes.
//!
//! - payload: this program again, `payload::main` with [`app::router`], from a copy of its own so that it can be
//!   upgraded;
//! - nginx: in front of this program as an axum server that nobody disturbs;
//! - Gunicorn: with aiohttp workers and `service.py`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::meter::address::Address;
use crate::meter::{Kind, app};

/// What anything here fails with.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// What another server writes to its standard error, in its folder. It is shown if the server does not start.
const LOG: &str = "log";

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) address: Address,
    /// Where it speaks HTTP/2, if that is another place.
    pub(crate) http2: Option<Address>,
    /// Kinds of clients that it does not serve.
    pub(crate) lacks: &'static [Kind],
    /// The one to signal.
    pub(crate) pid: Option<u32>,
    /// The service's own program and control socket, if it is payload.
    pub(crate) payload: Option<Paths>,
    // In the order in which they end; the folder goes last.
    processes: Vec<Process>,
    folder: Option<TempDir>,
}

pub(crate) struct Paths {
    pub(crate) program: PathBuf,
    pub(crate) control: PathBuf,
}

/// Ended with the drop, by SIGTERM and its own deadlines.
struct Process(Child);

/// As each worker of payload loads it.
pub(crate) async fn load(context: payload::Context) -> payload::Result<payload::App> {
    Ok(payload::App::builder().build(app::router(Some(context.drain_token()))))
}

/// The service behind nginx: serves the socket that is its standard input.
pub(crate) fn upstream() -> Result<(), Error> {
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        axum::serve(listener, app::router(None)).await?;
        Ok(())
    })
}

impl Server {
    /// One that somebody else has started.
    pub(crate) fn at(address: Address, pid: Option<u32>) -> Self {
        Self {
            address,
            http2: None,
            lacks: &[],
            pid,
            payload: None,
            processes: Vec::new(),
            folder: None,
        }
    }

    pub(crate) fn payload(workers: u32) -> Result<Self, Error> {
        let folder = tempfile::tempdir()?;
        let paths = Paths {
            program: folder.path().join("loss"),
            control: folder.path().join("control"),
        };
        // Only this thread starts processes: what another one forked now would hold the copy open for writing, and a
        // file that is written cannot be run.
        fs::copy(std::env::current_exe()?, &paths.program)?;
        let address = free_address()?;
        let mut command = Command::new(&paths.program);
        command
            .args(["run", "--log-level", "warn"])
            .args(["--workers", &workers.to_string()])
            .args(["--listen", &address.to_string()])
            .arg("--control")
            .arg(&paths.control)
            .env_remove("LISTEN_FDS");
        let server = Self {
            payload: Some(paths),
            ..Self::started(command, address, folder)?
        };
        server.wait_for(address)?;
        Ok(server)
    }

    /// `program`: nginx itself, if it is not the one in PATH.
    pub(crate) fn nginx(workers: u32, program: Option<&Path>) -> Result<Self, Error> {
        let folder = tempfile::tempdir()?;
        let (address, http2) = (free_address()?, free_address()?);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let behind = listener.local_addr()?;
        let upstream = Command::new(std::env::current_exe()?)
            .arg("upstream")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()?;
        let upstream = Process(upstream);
        let text = nginx_conf(folder.path(), workers, address, http2, behind)?;
        let file = folder.path().join("nginx.conf");
        fs::write(&file, text)?;
        let mut command = Command::new(found("nginx", program, "nginx-light")?);
        command.stderr(File::create(folder.path().join(LOG))?);
        command.arg("-p").arg(folder.path()).arg("-c").arg(&file);
        let mut server = Self::started(command, address, folder)?;
        server.processes.push(upstream);
        server.http2 = Some(Address::Tcp(http2));
        server.wait_for(address)?;
        Ok(server)
    }

    /// `program`: Gunicorn's command, such as that of a virtual environment, if it is not the one in PATH.
    pub(crate) fn gunicorn(workers: u32, program: Option<&Path>) -> Result<Self, Error> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        fs::write(folder.path().join("service.py"), include_str!("service.py"))?;
        let packages = "gunicorn and python3-aiohttp";
        let mut command = Command::new(found("gunicorn", program, packages)?);
        command
            .stderr(File::create(folder.path().join(LOG))?)
            .args(["--worker-class", "aiohttp.GunicornWebWorker"])
            .args(["--workers", &workers.to_string()])
            .args(["--bind", &address.to_string()])
            // As long as the others keep an idle connection; its default is 2 s.
            .args(["--keep-alive", "75", "--log-level", "warning"])
            .arg("service:app")
            .current_dir(folder.path());
        let server = Self {
            lacks: &[Kind::Http2(0)],
            ..Self::started(command, address, folder)?
        };
        server.wait_for(address)?;
        Ok(server)
    }

    fn started(mut command: Command, address: SocketAddr, folder: TempDir) -> Result<Self, Error> {
        let name = command.get_program().display().to_string();
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("start {name}: {error}"))?;
        let mut server = Self::at(Address::Tcp(address), Some(child.id()));
        server.processes.push(Process(child));
        server.folder = Some(folder);
        Ok(server)
    }

    /// Its children.
    pub(crate) fn workers(&self) -> Result<Vec<u32>, Error> {
        let pid = self.pid.ok_or("no --pid says whose workers")?;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(children
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect())
    }

    /// Until it answers there.
    fn wait_for(&self, address: SocketAddr) -> Result<(), Error> {
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > end {
                let log = self.folder.as_ref().map(|folder| folder.path().join(LOG));
                let log = log.and_then(|log| fs::read_to_string(log).ok());
                let log = log.unwrap_or_default();
                return Err(
                    format!("{address} refuses connections for {DEADLINE:?}\n{log}").into(),
                );
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = signal(self.0.id(), Signal::SIGTERM);
        let end = Instant::now() + DEADLINE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < end {
            sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) -> Result<(), Error> {
    kill(Pid::from_raw(i32::try_from(pid)?), signal)
        .map_err(|errno| format!("{signal} to process {pid}: {errno}").into())
}

/// The servers that Debian has, from Debian. They are not enabled, nor started.
pub(crate) fn install(packages: &[&str]) -> Result<(), Error> {
    let installed = Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // In this run level nothing is started by its installation.
        .env("RUNLEVEL", "1")
        .status()?;
    if !installed.success() {
        return Err(format!("apt-get install: {installed}").into());
    }
    Ok(())
}

fn found(program: &str, told: Option<&Path>, package: &str) -> Result<PathBuf, Error> {
    if let Some(told) = told {
        return Ok(std::path::absolute(told)?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.exists())
        .ok_or_else(|| format!("{program} is not here: --install installs {package}").into())
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn nginx_conf(
    folder: &Path,
    workers: u32,
    address: SocketAddr,
    http2: SocketAddr,
    behind: SocketAddr,
) -> Result<String, std::fmt::Error> {
    let folder = folder.display();
    let mut text = format!(
        "daemon off;\nuser root;\npid {folder}/pid;\nerror_log {folder}/error.log;\nworker_processes {workers};\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         access_log off;\nkeepalive_requests 1000000000;\nclient_max_body_size 0;\n\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
         upstream app {{ server {behind}; keepalive 128; keepalive_requests 1000000000; }}\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "{kind}_temp_path {folder}/{kind};")?;
    }
    for listen in [format!("{address}"), format!("{http2} http2")] {
        write!(
            text,
            "server {{\nlisten {listen};\nlocation / {{\nproxy_pass http://app;\nproxy_http_version 1.1;\n\
             proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection $connection_upgrade;\n\
             proxy_buffering off;\nproxy_request_buffering off;\n}}\n}}\n"
        )?;
    }
    text.push_str("}\n");
    Ok(text)
}
