//! What a new user sees: the binary alone, and behind systemfd.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::get;
use crate::launch::Launch;

#[test]
fn alone_it_binds_says_where_and_ends_at_ctrl_c() {
    let mut service = Launch::payload().serve();
    let address = service.address();
    let said = service.wait_for_message("no socket was passed; listening on");
    assert!(
        said["message"]
            .as_str()
            .is_some_and(|text| text.ends_with(&format!("http://{address}"))),
        "{said}"
    );
    let page = get(address, "/");
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let vitals: Value = serde_json::from_str(&get(address, "/api/vitals").body).unwrap();
    assert!(vitals.is_object(), "{vitals}");
    let shown: Value = serde_json::from_str(&get(address, "/api/service").body).unwrap();
    assert_eq!(shown["arbiter"]["pid"], service.pid());
    assert_eq!(
        shown["workers"].as_array().map(Vec::len),
        Some(service.workers().len())
    );
    service.interrupt_group();
    assert_eq!(service.exit_code(), 0);
    let stopped = service.wait_for_event("service-stopped");
    assert_eq!(stopped["exit_code"], 0);
    assert_eq!(service.events("worker-failed"), [] as [Value; 0]);
}

#[test]
fn one_worker_for_each_cpu_that_it_may_use() {
    let service = Launch::payload().default_workers().serve();
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(service.workers().len(), cpus);
}

#[test]
fn a_second_ctrl_c_is_no_crash() {
    let mut service = Launch::probe().workers(2).serve();
    let address = service.address();
    let mut client = crate::client::Client::connect(address);
    client
        .send(crate::client::request("/sleep?ms=60000"))
        .unwrap();
    service.wait_for_sum("in_flight", 1);
    service.signal(Signal::SIGTERM);
    service.wait_for_event("service-stopping");
    service.interrupt_group();
    service.wait_for_event("stop-hurried");
    assert_eq!(service.exit_code(), 0);
    client.expect_end();
}

#[test]
fn a_port_in_use_is_exit_69_and_names_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut service = Launch::payload().listen(&address.to_string()).spawn();
    assert_eq!(service.exit_code(), 69);
    let said = service.log_so_far();
    assert!(said.contains(&address.to_string()), "{said}");
    assert!(said.contains("in use"), "{said}");
}

#[test]
fn systemfd_passes_the_socket() {
    let Some(systemfd) = systemfd() else { return };
    let address = free_address();
    let port = address.port();
    let mut service = Launch::probe()
        .workers(2)
        .without_listen()
        .behind(&[
            &systemfd,
            "--no-pid",
            "--socket",
            &format!("http::{port}"),
            "--",
        ])
        .serve();
    assert_eq!(get(address, "/").status, 200);
    let status = service.status();
    let sockets = status["sockets"].as_array().unwrap();
    assert_eq!(sockets.len(), 1, "{status}");
    assert_eq!(sockets[0]["origin"], "passed");
    assert_eq!(sockets[0]["address"], address.to_string());
    assert!(!service.log_so_far().contains("no socket was passed"));
    let environment = get(address, "/environment").body;
    let left: Vec<&str> = environment
        .lines()
        .filter(|line| line.starts_with("LISTEN_"))
        .collect();
    assert_eq!(left, [""; 0]);
    service.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code(), 0);
}

/// A free address; systemfd takes a port, and cannot say which it has got for 0.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// The real one, which CI must have.
fn systemfd() -> Option<String> {
    let found = std::env::split_paths(&std::env::var_os("PATH")?)
        .chain(std::env::home_dir().map(|home| home.join(".cargo/bin")))
        .map(|directory| directory.join("systemfd"))
        .find(|path| Command::new(path).arg("--version").output().is_ok());
    if let Some(path) = found {
        return path.to_str().map(str::to_owned);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "systemfd is missing: cargo install systemfd --locked"
    );
    eprintln!("SKIPPED: systemfd is missing (cargo install systemfd --locked)");
    None
}
