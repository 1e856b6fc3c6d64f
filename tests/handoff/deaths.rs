//! One of the two dies while connections move, or has no room for them.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::load::seed;
use crate::support::http::Client;
use crate::support::process::signal_to;
use crate::support::service::{Service, Setup, number};
use crate::support::status::workers_of;

const CLIENTS: usize = 200;
const TURNS: u32 = 8;

/// A service with two workers, and the clients of each: of the one that stays and of the one that leaves with
/// TTOU.
struct Scene {
    service: Service,
    staying: u32,
    leaving: u32,
    of_staying: Vec<Client>,
    of_leaving: Vec<Client>,
}

impl Scene {
    fn new() -> Self {
        let service = Setup::new("workers = 2").serve();
        let workers = service.workers();
        let (staying, leaving) = (workers[0], workers[1]);
        let (mut of_staying, mut of_leaving) = (Vec::new(), Vec::new());
        let few = |clients: &[Client]| clients.len() < CLIENTS / 4;
        // Each has some, however they are dealt.
        while of_staying.len() + of_leaving.len() < CLIENTS || few(&of_staying) || few(&of_leaving)
        {
            assert!(of_staying.len() + of_leaving.len() < 20 * CLIENTS);
            let mut client = service.client();
            let pid = client.get("/").unwrap().number();
            if pid == staying {
                &mut of_staying
            } else {
                &mut of_leaving
            }
            .push(client);
        }
        Self {
            service,
            staying,
            leaving,
            of_staying,
            of_leaving,
        }
    }
}

/// How many get an answer on the connection that they have.
fn alive(clients: &mut [Client]) -> usize {
    let answers = clients.iter_mut().filter_map(|client| client.get("/").ok());
    answers.filter(|answer| answer.status == 200).count()
}

#[test]
fn the_receiver_is_killed() {
    let mut random = Rng::with_seed(seed());
    for _ in 0..TURNS {
        let mut scene = Scene::new();
        let pause = Duration::from_micros(random.u64(..8_000));
        scene.service.signal(Signal::SIGTTOU);
        sleep(pause);
        signal_to(scene.staying, Signal::SIGKILL);
        scene.service.event("worker-failed");
        // What it had taken dies with it. Everything else is still with the other, or with its replacement.
        let alive = alive(&mut scene.of_leaving);
        scene.service.event("worker-exited");
        // None, if the victim was dead before the other was told to leave.
        let handed_on = scene.service.events("connections-handed-on");
        let given: u32 = handed_on.iter().map(|record| record.number("given")).sum();
        let to_victim = scene.of_leaving.len() - alive;
        let all = scene.of_leaving.len();
        eprintln!("{pause:?}: {alive} of {all} live, {given} were given");
        assert!(
            to_victim <= given as usize,
            "{to_victim} lost after {pause:?}"
        );
        drop(scene.of_staying);
    }
}

#[test]
fn the_sender_is_killed() {
    let mut random = Rng::with_seed(seed());
    for _ in 0..TURNS {
        let mut scene = Scene::new();
        let pause = Duration::from_micros(random.u64(..8_000));
        scene.service.signal(Signal::SIGTTOU);
        sleep(pause);
        // It may have left before.
        let _ = kill(Pid::from_raw(scene.leaving.cast_signed()), Signal::SIGKILL);
        scene.service.record("its end", |record| {
            record.is("worker-failed") || record.is("worker-exited")
        });
        let alive = alive(&mut scene.of_staying) + alive(&mut scene.of_leaving);
        let status = scene.service.status();
        let workers = workers_of(&status).iter();
        let staying = { workers }
            .find(|worker| worker["pid"] == scene.staying)
            .unwrap();
        let count = |key: &str| number(&staying[key]) as usize;
        let (received, given) = (count("received"), count("given"));
        eprintln!("{pause:?}: {alive} of {CLIENTS} live, {received} were received");
        // For balance, some may have gone the other way before.
        let expected = scene.of_staying.len() - given + received;
        assert_eq!(alive, expected, "after {pause:?}");
        assert_eq!(count("connections"), expected);
    }
}

#[test]
fn the_receiver_has_no_descriptors_left() {
    let mut scene = Scene::new();
    let used = std::fs::read_dir(format!("/proc/{}/fd", scene.staying))
        .unwrap()
        .count();
    let limit = Command::new("prlimit")
        .args(["--pid", &scene.staying.to_string()])
        .arg(format!("--nofile={0}:{0}", used + 20))
        .status()
        .unwrap();
    assert!(limit.success());
    scene.service.signal(Signal::SIGTTOU);
    scene
        .service
        .record("the drain", |record| record["phase"] == "draining");
    let mut announced = 0;
    for client in &mut scene.of_leaving {
        let answer = client.get("/").expect("no request is lost");
        assert_eq!(answer.status, 200);
        if answer.announces_close() {
            assert_eq!(answer.number(), scene.leaving);
            client.expect_end();
            announced += 1;
        }
    }
    assert_eq!(alive(&mut scene.of_staying), scene.of_staying.len());
    scene.service.event("worker-exited");
    let handed_on = scene.service.event("connections-handed-on");
    // It has room for 20 more, and at most a few of its own have made room.
    let all = scene.of_leaving.len();
    assert!(announced + 25 >= all, "{announced} of {all}");
    assert!(handed_on.number("given") as usize + announced >= scene.of_leaving.len());
}
