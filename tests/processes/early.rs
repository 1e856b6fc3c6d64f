//! What an author has started before `payload::main`: a process with threads cannot be forked.

use crate::support::service::{Service, Setup};

fn setup(early: &str) -> Setup {
    Setup::new("workers = 1").env("PROBE_EARLY", early)
}

/// It ends with the code of the author's own mistakes, with one line that has the cure, and has touched nothing.
#[track_caller]
fn is_refused(service: &Service, words: &[&str]) {
    assert_eq!(service.exit(), 70, "{}", service.text());
    let said = service.text();
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert!(said.contains("make main a plain `fn main`, without #[tokio::main]"));
    assert!(!service.control().exists());
}

#[test]
fn a_runtime_around_main_is_refused_with_its_threads() {
    is_refused(&setup("runtime").start(), &["'tokio-rt-worker'"]);
}

#[test]
fn with_a_preload_as_well() {
    let service = setup("runtime").env("PROBE_PRELOAD", "1").start();
    is_refused(&service, &["'tokio-rt-worker'"]);
}

#[test]
fn by_every_command() {
    for command in ["check", "config"] {
        let service = setup("runtime").args(&[command]).start();
        is_refused(&service, &["'tokio-rt-worker'"]);
    }
}

#[test]
fn a_runtime_without_threads_is_refused_too() {
    is_refused(
        &setup("current-thread").start(),
        &["inside of a tokio runtime"],
    );
}

#[test]
fn threads_that_have_ended_are_fine() {
    assert_eq!(setup("joined").serve().stop(), 0);
}
