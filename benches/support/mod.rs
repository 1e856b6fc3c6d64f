//! Server processes under measurement. Each benchmark starts itself again in the role of a server.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What anything in a benchmark fails with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The processes that serve one address, killed when this is dropped.
pub struct Fleet {
    processes: Vec<Child>,
    /// Where they listen.
    pub address: SocketAddr,
}

impl Fleet {
    /// This benchmark's `payload::main` with so many single-threaded workers. It binds by itself.
    pub fn payload(workers: usize, variables: &[(&str, &str)]) -> Result<Self, Error> {
        Self::payload_logging(
            workers,
            variables,
            std::io::stderr().as_fd().try_clone_to_owned()?,
        )
    }

    /// The same with another place for what it logs.
    pub fn payload_logging(
        workers: usize,
        variables: &[(&str, &str)],
        log: impl Into<Stdio>,
    ) -> Result<Self, Error> {
        let address = listener()?.local_addr()?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["run", "--threads", "1", "--workers", &workers.to_string()])
            .args(["--listen", &address.to_string()])
            .env("PAYLOAD_LOG_LEVEL", "warn")
            .envs(variables.iter().copied())
            .env_remove("LISTEN_FDS")
            .stderr(log);
        let fleet = Self {
            processes: vec![command.spawn()?],
            address,
        };
        fleet.wait_until(|fleet| fleet.pids().len() == workers + 1)?;
        fleet.wait_until(|fleet| TcpStream::connect(fleet.address).is_ok())?;
        Ok(fleet)
    }

    /// So many processes of this benchmark in `role`, each with the listening socket as its stdin.
    pub fn processes(role: &[&str], count: usize) -> Result<Self, Error> {
        let listener = listener()?;
        let mut fleet = Self {
            processes: Vec::new(),
            address: listener.local_addr()?,
        };
        for index in 0..count {
            let process = Command::new(std::env::current_exe()?)
                .args(role)
                .arg(index.to_string())
                .stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)))
                .spawn()?;
            fleet.processes.push(process);
        }
        // They wait in epoll_wait when they are ready, and the kernel queues connections until then.
        std::thread::sleep(Duration::from_millis(200));
        Ok(fleet)
    }

    /// The time all processes have spent on a processor.
    pub fn cpu(&self) -> Result<Duration, Error> {
        let mut total = Duration::ZERO;
        for pid in self.pids() {
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let schedstat = std::fs::read_to_string(task?.path().join("schedstat"))?;
                let nanos = schedstat.split(' ').next().unwrap_or("0").parse()?;
                total += Duration::from_nanos(nanos);
            }
        }
        Ok(total)
    }

    /// The same for an arbiter with its workers, also those that are gone.
    pub fn cpu_of_all(&self) -> Result<Duration, Error> {
        let mut ticks = 0;
        for process in &self.processes {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
            // proc_pid_stat(5): cutime and cstime, of children that were waited for.
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
            for field in [13, 14] {
                ticks += fields.get(field).copied().unwrap_or("0").parse::<u32>()?;
            }
        }
        Ok(self.cpu()? + ticks * Duration::from_millis(10))
    }

    /// To every process that was started.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        for process in &self.processes {
            kill(Pid::from_raw(i32::try_from(process.id())?), signal)?;
        }
        Ok(())
    }

    /// Until an arbiter has so many workers.
    pub fn wait_for_workers(&self, workers: usize) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.pids().len() != workers + 1 {
            if Instant::now() > deadline {
                return Err("the workers did not come or go within 30 s".into());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    /// The proportional set sizes, in KiB, largest first.
    pub fn memory(&self) -> Result<Vec<u64>, Error> {
        let mut sizes = Vec::new();
        for pid in self.pids() {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            sizes.push(pss.unwrap_or("0").trim().trim_end_matches(" kB").parse()?);
        }
        sizes.sort_by_key(|size| std::cmp::Reverse(*size));
        Ok(sizes)
    }

    /// Ours and their children.
    fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for process in &self.processes {
            let pid = process.id();
            pids.push(pid);
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            pids.extend(
                children
                    .unwrap_or_default()
                    .split(' ')
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
        pids
    }

    fn wait_until(&self, condition: impl Fn(&Self) -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            if Instant::now() > deadline {
                return Err("the server did not come up within 10 s".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The first worker answers a little earlier than the last.
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // An arbiter has its workers leave first.
            if let Ok(pid) = i32::try_from(process.id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
            }
            let _ = process.wait();
        }
    }
}

/// The one in the middle; none are nothing.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The listening socket that [`Fleet::processes`] passed.
pub fn passed() -> Result<TcpListener, Error> {
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// A single-threaded runtime, as a worker has it.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn listener() -> Result<TcpListener, Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    socket2::SockRef::from(&listener).listen(4096)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
