//! A cold start by socket: from the first connection, which starts the service, to the first byte of its answer.
//! Beside it a program that is linked statically, has no runtime, and writes the same answer.
//!
//! `cargo bench --bench start`; `TIMES=500` before it for another number of starts. It needs `rustc`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured"
)]

#[allow(unreachable_pub, dead_code, reason = "each bench uses its part")]
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use http::{Request, Response};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::{Error, median};

/// Moves the socket from standard input to where systemd would have put it.
const PASS: &str = "exec 3<&0 0</dev/null; exec \"$@\"";

const BARE: &str = r#"
use std::io::{Read, Write};
use std::os::fd::AsFd;
fn main() {
    let listener = std::net::TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let (mut client, _) = listener.accept().unwrap();
    let _ = client.read(&mut [0; 1024]).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n").unwrap();
}
"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let result = match arguments.get(1).map(String::as_str) {
        Some("run") => return payload::main(load),
        // Without the flag of `cargo bench`, only that it works is tested.
        other => measure(other == Some("--bench")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn load(_: payload::Context) -> payload::Result<payload::App> {
    let hello = payload::service_fn(|_: Request<payload::Body>| async {
        Ok(Response::new(payload::Body::from("hello\n")))
    });
    Ok(payload::App::builder().build(hello))
}

fn measure(full: bool) -> Result<(), Error> {
    let times = std::env::var("TIMES").map_or(Ok(if full { 200 } else { 2 }), |n| n.parse())?;
    let folder = tempfile::tempdir()?;
    let bare = folder.path().join("bare");
    build(&bare)?;
    let own = std::env::current_exe()?;
    let (mut one, mut two, mut other) = (Vec::new(), Vec::new(), Vec::new());
    // In turn, so that whatever else the machine does meets all alike.
    for _ in 0..times {
        one.push(start(&own, &["run", "--workers", "1"], Signal::SIGTERM)?);
        two.push(start(&own, &["run", "--workers", "2"], Signal::SIGTERM)?);
        other.push(start(&bare, &[], Signal::SIGKILL)?);
    }
    println!("{times} starts each, from connect to the first byte, in ms");
    println!("{:>28}{:>10}{:>10}", "", "median", "most");
    for (name, mut times) in [
        ("payload, one worker", one),
        ("payload, two workers", two),
        ("bare static program", other),
    ] {
        let most = times.iter().max().copied().unwrap_or_default();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{name:>28}{:>10.2}{:>10.2}",
            millis(median(&mut times)),
            millis(most)
        );
    }
    Ok(())
}

/// One start. The listener is bound before, as systemd does it, and what waits in it starts the program.
fn start(program: &Path, arguments: &[&str], end: Signal) -> Result<Duration, Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    if arguments.is_empty() {
        // It waits in accept(2) itself.
        listener.set_nonblocking(false)?;
    }
    let begun = Instant::now();
    let mut client = TcpStream::connect(address)?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let mut command = Command::new("sh");
    if arguments.is_empty() {
        command.args(["-c", "exec \"$@\"", "sh"]);
    } else {
        command.args(["-c", PASS, "sh"]);
        command
            .env("LISTEN_FDS", "1")
            .env("PAYLOAD_LOG_LEVEL", "warn");
    }
    let child = command
        .arg(program)
        .args(arguments)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .spawn()?;
    let mut child = Ended(child, end);
    client.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut answer = [0; 9];
    client.read_exact(&mut answer[..1])?;
    let took = begun.elapsed();
    client.read_exact(&mut answer[1..])?;
    if &answer != b"HTTP/1.1 " {
        return Err("no answer in HTTP".into());
    }
    drop(client);
    child.end()?;
    Ok(took)
}

/// By the signal, and waited for: the next start has the machine for itself.
struct Ended(Child, Signal);

impl Ended {
    fn end(&mut self) -> Result<(), Error> {
        if self.0.try_wait()?.is_none() {
            kill(Pid::from_raw(i32::try_from(self.0.id())?), self.1)?;
        }
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A program that does nothing but answer once.
fn build(to: &Path) -> Result<(), Error> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compiler = Command::new(rustc)
        .args(["-", "--edition", "2024", "--crate-name", "bare", "-O"])
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
            "-o",
        ])
        .arg(to)
        .stdin(Stdio::piped())
        .spawn()?;
    let mut source = compiler.stdin.take().ok_or("no way to give the source")?;
    source.write_all(BARE.as_bytes())?;
    drop(source);
    let status = compiler.wait()?;
    if !status.success() {
        return Err(format!("rustc: {status}").into());
    }
    Ok(())
}
