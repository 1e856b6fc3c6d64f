//! `payload status`, and the control socket that it asks.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::{Map, Value};

use crate::support::http::{get, try_get};
use crate::support::program::copy_program;
use crate::support::service::{Setup, payload, signal_to};
use crate::support::status::workers_of;
use crate::support::{DEADLINE, eventually, skip};

#[test]
fn json_has_every_key_that_programs_rely_on() {
    let service = Setup::new("workers = 2\n[app]\npayload = 'run'").serve();
    let mut held = service.client();
    assert_eq!(held.get("/").unwrap().status, 200);
    get(service.address(), "/panic");
    held.send("/sleep?ms=60000").unwrap();
    service.wait_for_sum("in_flight", 1);
    // Its client sees the end of a connection before that is counted.
    service.wait_for_sum("connections", 1);
    let output = service.status_command(&["--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();

    let arbiter = &status["arbiter"];
    assert_eq!(arbiter["pid"], service.pid());
    assert_eq!(arbiter["state"], "ready");
    assert_eq!(arbiter["generation"], 1);
    assert_eq!(arbiter["workers"], 2);
    assert_eq!(arbiter["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(arbiter["log_drops"], 0);
    let line = arbiter["status"].as_str().unwrap();
    assert!(
        line.starts_with("2/2 workers serving, generation 1, "),
        "{line}"
    );
    let uptime = seconds(&arbiter["uptime"]);

    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    let sum = |key: &str| {
        workers
            .iter()
            .map(|worker| worker[key].as_u64().unwrap())
            .sum::<u64>()
    };
    for (slot, worker) in workers.iter().enumerate() {
        assert_eq!(worker["slot"], slot);
        assert_ne!(worker["pid"], service.pid());
        assert_eq!(worker["generation"], 1);
        assert_eq!(worker["phase"], "serving");
        assert!(seconds(&worker["since"]) <= uptime);
        assert!(seconds(&worker["heartbeat"]) < 30.0, "{worker}");
        for (key, value) in [
            ("loads", 1),
            ("starts", 1),
            ("stops", 0),
            ("restarts", 0),
            ("log_drops", 0),
        ] {
            assert_eq!(worker[key], value, "{key} of {worker}");
        }
        assert!(worker["memory"].as_u64().unwrap() > 100_000, "{worker}");
        let payloads = worker["payloads"].as_array().unwrap();
        assert_eq!(payloads.len(), 1, "{worker}");
        assert!(payloads[0]["name"].is_string());
        assert_eq!(payloads[0]["state"], "running");
        assert_eq!(payloads[0]["restarts"], 0);
    }
    assert_eq!(sum("in_flight"), 1);
    assert_eq!(sum("connections"), 1);
    assert_eq!(sum("accepted"), 2);
    assert_eq!(sum("requests"), 2);
    assert_eq!(sum("panics"), 1);
    assert!(sum("bytes_in") > 0 && sum("bytes_out") > 0);
    let timed: u64 = workers
        .iter()
        .flat_map(|worker| worker["latency"].as_array().unwrap())
        .map(|count| count.as_u64().unwrap())
        .sum();
    assert_eq!(timed, 2);

    let address = service.address().to_string();
    let socket: Map<String, Value> = status["sockets"][0].as_object().unwrap().clone();
    assert_eq!(socket["name"], "listen");
    assert_eq!(socket["address"], *address);
    assert_eq!(socket["origin"], "bound");
}

#[test]
fn for_people_it_is_a_table() {
    let service = Setup::new("workers = 2\n[app]\npayload = 'run'").serve();
    let output = service.status_command(&[]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let arbiter = format!("ready arbiter, pid {}, up ", service.pid());
    assert!(text.starts_with(&arbiter), "{text}");
    let header = text.lines().find(|line| line.starts_with("SLOT")).unwrap();
    for column in [
        "PID",
        "GEN",
        "PHASE",
        "SINCE",
        "CONNS",
        "IN FLIGHT",
        "REQUESTS",
        "MEMORY",
        "RESTARTS",
        "LOADS/STARTS/STOPS",
        "PAYLOADS",
    ] {
        assert!(header.contains(column), "{header}");
    }
    let lives = header.find("LOADS/STARTS/STOPS").unwrap();
    for worker in workers_of(&service.status()) {
        let row = format!("{}     {}", worker["slot"], worker["pid"]);
        let found = text.lines().find(|line| line.starts_with(&row));
        let found = found.unwrap_or_else(|| panic!("no row {row:?} in\n{text}"));
        assert!(
            found.contains("serving") && found.contains(":running"),
            "{found}"
        );
        assert!(
            found[lives..].starts_with("1/1/0 "),
            "loaded once, started once, not yet stopped: {found}"
        );
    }
    let socket = format!("socket listen {} (bound)", service.address());
    assert!(text.lines().any(|line| line == socket), "{text}");
}

#[test]
fn without_a_service_it_is_exit_69() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let place = path.to_str().unwrap();
    let nobody = |more: &[&str]| {
        let mut command = payload(&["status"]);
        command.args(more);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = nobody(&["--control", place]);
    assert!(said.contains(place), "{said}");
    assert!(said.contains("is the service running"), "{said}");
    let said = nobody(&[]);
    assert!(said.contains("--control"), "{said}");
    // A socket file that a crash left behind.
    drop(UnixListener::bind(&path).unwrap());
    let said = nobody(&["--control", place]);
    assert!(said.contains("is the service running"), "{said}");
}

#[test]
fn server_and_client_find_the_socket_by_the_same_variables() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    for (name, value, file) in [
        ("RUNTIME_DIRECTORY", place.to_owned(), "control.sock"),
        (
            "RUNTIME_DIRECTORY",
            format!("{place}:/elsewhere"),
            "control.sock",
        ),
        ("PAYLOAD_CONTROL", format!("{place}/mine.sock"), "mine.sock"),
    ] {
        let service = Setup::new("workers = 1")
            .control(None)
            .env(name, &value)
            .start();
        service.event("service-ready");
        assert!(directory.path().join(file).exists());
        let output = payload(&["status", "--json"])
            .env(name, &value)
            .output()
            .unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["arbiter"]["pid"], service.pid());
        assert_eq!(service.stop(), 0);
        assert!(!directory.path().join(file).exists());
    }
}

#[test]
fn the_socket_is_for_its_owner_alone() {
    let service = Setup::new("workers = 1").serve();
    let file = fs::symlink_metadata(service.control()).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o7777, 0o600);
}

#[test]
fn another_user_is_refused_even_where_the_file_would_let_it_in() {
    if !geteuid().is_root() {
        return skip("only root can ask as another user");
    }
    let service = Setup::new("workers = 1").serve();
    // Where that user can run it, and reach the socket's directory.
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("payload");
    copy_program(env!("CARGO_BIN_EXE_payload").as_ref(), &binary);
    for place in [directory.path(), service.control().parent().unwrap()] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let ask = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command
            .arg(&binary)
            .arg("status")
            .arg("--control")
            .arg(service.control());
        command.output().unwrap()
    };
    let output = ask();
    assert_eq!(output.status.code(), Some(77), "{output:?}");

    // What a careless chmod opens, SO_PEERCRED keeps shut.
    fs::set_permissions(service.control(), fs::Permissions::from_mode(0o666)).unwrap();
    let output = ask();
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    service.message("a control client was turned away");
    assert_eq!(service.status()["arbiter"]["state"], "ready");
}

#[test]
fn clients_that_make_no_sense_get_an_error_and_disturb_nobody() {
    let service = Setup::new("workers = 1").serve();
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(service.control()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // It may have been closed before all was written.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    for (bytes, answer) in [
        (&b"\xff\x00\xfe\n"[..], "not a command"),
        (b"{\"command\":\"launch\"}\n", "not a command"),
        (b"{\"command\":\"status\",\"more\":1}\n", "not a command"),
        (b"GET / HTTP/1.1\r\n\r\n", "not a command"),
        (b"\n", "not a command"),
    ] {
        let said = ask(bytes);
        assert!(
            said.starts_with("{\"error\":") && said.contains(answer),
            "{said}"
        );
    }
    let said = ask(&vec![b'x'; 1 << 20]);
    assert!(said.is_empty() || said.contains("at most"), "{said}");
    assert_eq!(service.status()["arbiter"]["state"], "ready");
}

#[test]
fn slow_clients_are_dropped_and_the_arbiter_goes_on() {
    let service = Setup::new("workers = 1").serve();
    // As many as are let in, all of them silent.
    let mut silent: Vec<UnixStream> = (0..16)
        .map(|_| UnixStream::connect(service.control()).unwrap())
        .collect();
    for stream in &mut silent {
        stream.write_all(b"{\"command\":").unwrap();
    }
    // The arbiter does its work meanwhile.
    let pid = service.workers()[0];
    signal_to(pid, Signal::SIGKILL);
    service.event("worker-failed");
    eventually("a worker that answers", DEADLINE, || {
        let answer = try_get(service.address(), "/").ok()?;
        (answer.number() != pid).then_some(())
    });
    for stream in &mut silent {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the end, in time");
        assert!(rest.is_empty());
    }
    // And there is room again.
    assert_eq!(service.status()["arbiter"]["state"], "ready");
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    let first = Setup::new("workers = 1").control(Some(&path)).serve();
    assert_eq!(first.status()["arbiter"]["pid"], first.pid());

    let second = Setup::new("workers = 1").control(Some(&path)).start();
    assert_eq!(second.exit(), 69);
    let said = second.text();
    assert!(said.contains(path.to_str().unwrap()), "{said}");
    assert_eq!(
        first.status()["arbiter"]["pid"],
        first.pid(),
        "the first keeps it"
    );

    assert_eq!(first.stop(), 0);
    assert!(!path.exists(), "removed at the end");
}

#[test]
fn a_worker_never_removes_the_socket() {
    let service = Setup::new("workers = 2")
        .args(&["--max-requests=5"])
        .serve();
    let pid = service.workers()[0];
    signal_to(pid, Signal::SIGTERM);
    service.wait_until_replaced(pid);
    let pid = service.workers()[0];
    signal_to(pid, Signal::SIGKILL);
    service.wait_until_replaced(pid);
    for _ in 0..20 {
        get(service.address(), "/");
    }
    service.event("worker-exited");
    assert!(service.control().exists());
    assert_eq!(service.status()["arbiter"]["pid"], service.pid());
    assert_eq!(service.stop(), 0);
    assert!(!service.control().exists());
}

#[track_caller]
fn seconds(value: &Value) -> f64 {
    value
        .as_f64()
        .filter(|seconds| *seconds >= 0.0)
        .expect("seconds as a number")
}
