//! A stop wins over a reload, in every stage, and is a clean one.

use serde_json::Value;

use crate::stage::OLD;
use crate::support::notify::Manager;
use crate::support::service::{Quiet as _, Service, Setup};
use crate::support::status::workers_of;

#[test]
fn while_the_program_is_checked() {
    stops("200ms", "", "hang", |service| {
        service.status_where("it checks", |status| {
            let line = status["arbiter"]["status"].as_str().unwrap();
            line.starts_with("reloading (checking)")
        });
    });
}

#[test]
fn while_the_new_workers_start() {
    let app = "startup = 'hang'\n";
    stops("200ms", app, "", |service| {
        service.status_where("they start", |status| reached(status, "starting"));
    });
}

#[test]
fn while_the_new_workers_are_tried() {
    stops("60s", "", "", |service| {
        service.status_where("they serve", |status| reached(status, "serving"));
    });
}

#[track_caller]
fn stops(trial: &str, app: &str, main: &str, reached: fn(&Service)) {
    let manager = Manager::on_path();
    let service = Setup::new(OLD).installed().notify(&manager).serve();
    service.configure(&(OLD.replace("200ms", trial) + app));
    service.write("probe.main", main);
    let reload = service.reload_command().spawn_quiet();
    reached(&service);
    manager.hear_line("RELOADING=1");
    assert_eq!(service.stop(), 0);
    let output = reload.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert!(said.contains("the service was told to stop"), "{said}");
    // Also the end of the reload is told, before the stop.
    let heard = manager.rest();
    let place = |line: &str| heard.iter().position(|datagram| datagram.has(line));
    let (ready, stopping) = (place("READY=1"), place("STOPPING=1"));
    assert!(ready.is_some() && ready < stopping, "{heard:#?}");
    // The checked program too.
    service.gone();
}

fn reached(status: &Value, phase: &str) -> bool {
    let new = |worker: &&Value| worker["generation"] == 2 && worker["phase"] == phase;
    workers_of(status).iter().filter(new).count() == 2
}
