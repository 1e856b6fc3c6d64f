//! What a new user sees: the binary alone, and behind systemfd.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::http::get;
use crate::support::service::Setup;
use crate::support::{own_loopback, skip};

#[test]
fn alone_it_binds_says_where_and_ends_at_ctrl_c() {
    let service = Setup::shipped("").args(&["--workers=2"]).serve();
    let address = service.address();
    let said = service.message("no socket was passed; listening on");
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
    assert_eq!(shown["workers"].as_array().map(Vec::len), Some(2));
    assert_eq!(service.workers().len(), 2);
    service.interrupt_group();
    assert_eq!(service.exit(), 0);
    let stopped = service.event("service-stopped");
    assert_eq!(stopped["exit_code"], 0);
    service.never("worker-failed");
}

#[test]
fn one_worker_for_each_cpu_that_it_may_use() {
    let service = Setup::shipped("").serve();
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(service.workers().len(), cpus);
}

#[test]
fn a_second_ctrl_c_is_no_crash() {
    let service = Setup::new("workers = 2").serve();
    let mut client = service.client();
    client.send("/sleep?ms=60000").unwrap();
    service.wait_for_sum("in_flight", 1);
    service.signal(Signal::SIGTERM);
    service.event("service-stopping");
    service.interrupt_group();
    service.event("stop-hurried");
    assert_eq!(service.exit(), 0);
    client.expect_end();
}

#[test]
fn a_port_in_use_is_exit_69_and_names_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let service = Setup::shipped("workers = 2")
        .listen(Some(&address.to_string()))
        .start();
    assert_eq!(service.exit(), 69);
    let said = service.text();
    assert!(said.contains(&address.to_string()), "{said}");
    assert!(said.contains("in use"), "{said}");
}

#[test]
fn systemfd_passes_the_socket() {
    let Some(systemfd) = systemfd() else { return };
    let address = free_address();
    let service = Setup::new("workers = 2")
        .listen(None)
        .through(&[
            &systemfd,
            "--no-pid",
            "--socket",
            &format!("http::{address}"),
            "--",
        ])
        .serve();
    assert_eq!(get(address, "/").status, 200);
    let status = service.status();
    let sockets = status["sockets"].as_array().unwrap();
    assert_eq!(sockets.len(), 1, "{status}");
    assert_eq!(sockets[0]["origin"], "passed");
    assert_eq!(sockets[0]["address"], address.to_string());
    assert!(!service.text().contains("no socket was passed"));
    let environment = get(address, "/environment").body;
    let left: Vec<&str> = environment
        .lines()
        .filter(|line| line.starts_with("LISTEN_"))
        .collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(service.stop(), 0);
}

/// A free address; systemfd cannot say which port it has got for 0.
fn free_address() -> SocketAddr {
    TcpListener::bind((own_loopback(), 0))
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
    skip("systemfd is missing (cargo install systemfd --locked)");
    None
}
