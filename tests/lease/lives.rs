//! The life of a service after one whose arbiter was killed, started by somebody who does not end what is left of that.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::ledger::Book;
use crate::manager::Manager;
use crate::stalls::wait_for_state;
use crate::support::service::{Service, Setup, signal_to};

/// A worker that is left holds out for as long as a test lasts.
const SETTINGS: &str =
    "workers = 1\n[reload]\ntrial = '50ms'\n[timeouts]\ngraceful = '10m'\ncleanup = '10m'";
const LEFT: &str = "processes of an earlier life of this service are left: \
    payloads that need a lease wait for their end; `ss -xlp` names them by this claim";
const WAITS: &str = "leases wait for the end of an earlier life of this service";

struct Scene {
    manager: Manager,
    book: Book,
}

impl Scene {
    fn new() -> Self {
        let (manager, book) = (Manager::new(0), Book::new());
        // Whoever is told to stop holds its thread, and writes on.
        book.ledger.tell("block");
        Self { manager, book }
    }

    fn setup(&self, scope: &str) -> Setup {
        let setup = self.book.forgotten(SETTINGS, scope, "restart");
        self.manager.start(setup.installed())
    }

    /// Its arbiter is gone, and its worker writes on.
    fn bereave(&self, service: &Service) -> u32 {
        let worker = service.workers()[0];
        service.signal(Signal::SIGKILL);
        service.exit_of_first();
        service.record("a drain", |record| record["phase"] == "draining");
        worker
    }

    /// It serves, and says what it waits for.
    fn waiting(&self, scope: &str, before: &Service) -> Service {
        let service = self.setup(scope).serve();
        let said = service.message(LEFT);
        assert_eq!(said.number("arbiter_pid"), before.pid());
        let address = self.manager.address();
        assert_eq!(said.text("claim"), format!("@payload:leases:{address}"));
        self.waits(&service);
        service
    }

    /// The old one writes, this one serves, and its payload does not run.
    fn waits(&self, service: &Service) {
        let degraded = service.event("service-degraded");
        assert_eq!(degraded.text("leases"), "withheld");
        let status = service.status_where("it waits", |status| {
            status["arbiter"]["status"]
                .as_str()
                .unwrap()
                .ends_with(WAITS)
        });
        assert!(status["leases"][0]["holder"].is_null(), "{status}");
        let before = self.book.ledger.stints();
        self.book
            .ledger
            .wait_until("the old one writes on", |stints| {
                stints.last().unwrap().to > before.last().unwrap().to
            });
        assert_eq!(self.book.ledger.stints().len(), before.len());
        assert_eq!(self.manager.client().get("/").unwrap().status, 200);
        assert_eq!(service.events("lease-granted").len(), 0);
    }

    /// It has what it has waited for, and nothing has to be waited for any more.
    fn has_it(&self, service: &Service, count: usize) {
        let stints = self.book.ledger.wait_for(count);
        assert_eq!(stints[count - 1].pid, service.workers()[0]);
        service.message("no process of an earlier life of this service is left");
        service.event("service-recovered");
        service.status_where("it waits no more", |status| {
            !status["arbiter"]["status"]
                .as_str()
                .unwrap()
                .contains(WAITS)
        });
    }
}

fn has_said(service: &Service, text: &str) -> bool {
    let records = service.records();
    records.iter().any(|record| record.text("message") == text)
}

/// Again and again: those workers were forked while their own arbiter still waited.
#[test]
fn a_life_waits_with_its_leases_for_the_one_before() {
    for scope in ["service", "slot"] {
        let scene = Scene::new();
        let mut service = scene.setup(scope).serve();
        scene.book.ledger.wait_for(1);
        assert!(!has_said(&service, LEFT), "there is none before it");
        for count in 2..5 {
            let left = scene.bereave(&service);
            let next = scene.waiting(scope, &service);
            signal_to(left, Signal::SIGKILL);
            scene.has_it(&next, count);
            service.gone();
            service = next;
        }
        scene.book.ledger.tell_nothing();
        assert_eq!(service.stop(), 0);
    }
}

/// A frozen one does nothing, and may go on at any time.
#[test]
fn one_that_is_frozen_is_waited_for_as_well() {
    let scene = Scene::new();
    let service = scene.setup("service").serve();
    scene.book.ledger.wait_for(1);
    // Not before: the kernel lets the stopped processes of a group go on that has lost its leader's parent.
    let worker = scene.bereave(&service);
    signal_to(worker, Signal::SIGSTOP);
    wait_for_state(worker, 'T');
    let next = scene.setup("service").serve();
    next.message(LEFT);
    next.status_where("it waits", |status| {
        status["arbiter"]["status"]
            .as_str()
            .unwrap()
            .ends_with(WAITS)
    });
    assert_eq!(next.events("lease-granted").len(), 0);
    signal_to(worker, Signal::SIGKILL);
    scene.has_it(&next, 2);
    scene.book.ledger.tell_nothing();
    assert_eq!(next.stop(), 0);
}

/// The claim goes from image to image, and so does the waiting for it.
#[test]
fn a_reload_changes_nothing_about_it() {
    let scene = Scene::new();
    let first = scene.setup("service").serve();
    scene.book.ledger.wait_for(1);
    // The worker that it leaves must stop, which it does not.
    scene.book.ledger.tell_nothing();
    assert!(first.reload().status.success());
    scene.book.ledger.wait_for(2);
    scene.book.ledger.tell("block");
    let left = scene.bereave(&first);
    let next = scene.waiting("service", &first);
    assert!(next.reload().status.success());
    scene.waits(&next);
    // One that knows nothing of it would grant them at once.
    next.write("probe.main", "older");
    let refused = next.reload();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("its state is of version"), "{said}");
    signal_to(left, Signal::SIGKILL);
    scene.has_it(&next, 3);
    // Its worker is told to stop by that, and must.
    scene.book.ledger.tell_nothing();
    assert!(next.reload().status.success(), "now it can take over");
    scene.book.ledger.wait_for(4);
    scene.book.ledger.tell("block");
    let left = scene.bereave(&next);
    let last = scene.waiting("service", &next);
    signal_to(left, Signal::SIGKILL);
    scene.has_it(&last, 5);
    scene.book.ledger.tell_nothing();
    assert_eq!(last.stop(), 0);
}

/// It could keep the service from its work for ever.
#[test]
fn a_claim_of_another_user_is_not_believed() {
    if !geteuid().is_root() {
        println!("not as root: nobody else can be had to take the name");
        return;
    }
    let scene = Scene::new();
    let name = format!("\\0payload:leases:{}", scene.manager.address());
    let take = format!(
        "import os, socket, sys\nos.setuid(65534)\ns = socket.socket(socket.AF_UNIX)\ns.bind('{name}')\ns.listen()\nprint(flush=True)\nsys.stdin.read()"
    );
    let mut thief = Command::new("python3");
    thief
        .args(["-c", &take])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut thief = thief.spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(thief.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let service = scene.setup("service").serve();
    scene.book.ledger.wait_for(1);
    let said = service.message(
        "the claim to this service's leases failed: processes of an earlier life are not waited for",
    );
    assert!(said.text("error").contains("of user 65534"), "{said}");
    assert_eq!(line, "\n", "it had the name");
    drop(thief.stdin.take());
    thief.wait().unwrap();
    scene.book.ledger.tell_nothing();
    assert_eq!(service.stop(), 0);
}
