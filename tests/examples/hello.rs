//! `examples/hello.rs`.

use std::collections::BTreeSet;

use std::process::Command;

use crate::support::service::{Service, Setup, example};

/// The workers that have said this, or of which it was said.
fn workers(service: &Service, count: usize, text: &str) -> BTreeSet<Option<u64>> {
    let records = service.count(text, count, |record| {
        record.text("message") == text || record.is(text)
    });
    assert_eq!(records.len(), count, "once each: {text}");
    records.iter().map(|record| record.worker()).collect()
}

#[test]
fn each_worker_starts_its_app_once_and_tears_it_down() {
    let service = Setup::example("hello", "workers = 2\n[reload]\ntrial = '200ms'").serve();
    assert_eq!(service.get("/"), "hello\n");
    assert!(service.reload().status.success());
    assert_eq!(service.get("/"), "hello\n");
    let alive = workers(&service, 4, "the payload is alive");
    assert_eq!(service.stop(), 0);
    assert_eq!(alive.len(), 4);
    for text in [
        "worker-forked",
        "this worker's app starts up",
        "this worker's app is torn down",
        "worker-exited",
    ] {
        assert_eq!(workers(&service, 4, text), alive, "{text}");
    }
}

/// Each example finds its own service by its name, as its first lines say.
#[test]
fn its_own_commands_find_it() {
    let setup = Setup::example("hello", "workers = 1").control(None);
    let login = setup.folder().to_str().unwrap().to_owned();
    let service = setup.env("XDG_RUNTIME_DIR", &login).serve();
    for (command, said) in [
        ("status", "1/1 workers serving"),
        ("reload", "generation 2 serves"),
    ] {
        let mut client = Command::new(example("hello"));
        client.arg(command).env("XDG_RUNTIME_DIR", &login);
        let output = client.env_remove("RUNTIME_DIRECTORY").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(said), "{output:?}");
    }
    assert_eq!(service.stop(), 0);
}
