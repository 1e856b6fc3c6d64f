//! Where the control socket is: made, said, or missing with a reason.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::http::get;
use crate::support::service::{Record, Service, Setup, payload};

const THERE: &str = "the control socket is there";
const MISSING: &str = "there is no control socket";

/// The shipped binary as a login starts it, of which the runtime directory is the setup's folder.
fn of_login() -> Setup {
    let setup = Setup::shipped("workers = 1").control(None);
    let directory = setup.folder().to_str().unwrap().to_owned();
    setup.env("XDG_RUNTIME_DIR", &directory)
}

/// It has none, said so once, and serves.
#[track_caller]
fn serves_without(service: &Service) -> Record {
    let said = service.message(MISSING);
    assert_eq!(get(service.address(), "/healthz").status, 200);
    assert!(!service.text().contains(THERE));
    said
}

/// A command of a client in the same surroundings.
#[track_caller]
fn asks(directory: &Path, command: &str) -> String {
    let mut client = payload(&[command]);
    let output = client.env("XDG_RUNTIME_DIR", directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn in_the_runtime_directory_of_a_login_it_makes_its_folder() {
    let service = of_login().serve();
    let folder = service.folder().join("payload");
    let mode = fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700, "for this user only");
    let path = folder.join("payload.sock");
    assert_eq!(service.message(THERE)["path"], path.to_str().unwrap());
    let said = asks(service.folder(), "status");
    assert!(said.contains("1/1 workers serving"), "{said}");
    let said = asks(service.folder(), "reload");
    assert_eq!(said, "payload: generation 2 serves\n");
    assert_eq!(service.stop(), 0);
    assert!(!path.exists() && folder.exists());
}

#[test]
fn a_folder_that_is_there_stays_as_it_is() {
    let setup = of_login();
    let folder = setup.folder().join("payload");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
    let service = setup.serve();
    service.message(THERE);
    let mode = fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
}

#[test]
fn a_folder_that_cannot_be_made_costs_the_control_socket_and_nothing_else() {
    let setup = Setup::shipped("workers = 1").control(None);
    let missing = setup.folder().join("missing");
    let service = setup
        .env("XDG_RUNTIME_DIR", missing.to_str().unwrap())
        .serve();
    let said = serves_without(&service);
    assert_eq!(said.text("level"), "warn");
    assert!(said.text("reason").contains("missing/payload"), "{said}");
    assert!(!missing.exists(), "the runtime directory is the system's");

    let setup = of_login();
    fs::write(setup.folder().join("payload"), "no folder").unwrap();
    let service = setup.serve();
    assert_eq!(serves_without(&service).text("level"), "warn");
}

#[test]
fn a_place_that_somebody_has_named_must_be_there() {
    let named = |setup: Setup| {
        let folder = setup.folder().join("missing");
        (setup, folder)
    };
    let (setup, missing) = named(Setup::shipped("workers = 1"));
    let path = missing.join("control");
    let by_flag = setup.control(Some(&path)).start();
    let (setup, missing) = named(Setup::shipped("workers = 1").control(None));
    let by_variable = setup
        .env("PAYLOAD_CONTROL", missing.join("c").to_str().unwrap())
        .start();
    let (setup, missing) = named(Setup::shipped("workers = 1").control(None));
    let by_unit = setup
        .env("RUNTIME_DIRECTORY", missing.to_str().unwrap())
        .start();
    for service in [by_flag, by_variable, by_unit] {
        assert_eq!(service.exit(), 69);
        let said = service.message("the service cannot start");
        for word in ["make the control socket", "--control", "its directory"] {
            assert!(said.text("reason").contains(word), "{said}");
        }
        assert!(!service.folder().join("missing").exists());
    }
}

/// Also with a folder that payload makes: they would answer for each other.
#[test]
fn two_services_of_one_name_need_two_places() {
    let first = of_login().serve();
    let directory = first.folder().to_str().unwrap();
    let second = || {
        Setup::shipped("workers = 1")
            .control(None)
            .env("XDG_RUNTIME_DIR", directory)
    };
    let refused = second().start();
    assert_eq!(refused.exit(), 69);
    let said = refused.message("the service cannot start");
    assert!(said.text("reason").contains("--control"), "{said}");
    serves_without(&second().args(&["--control", "none"]).serve());
}

#[test]
fn without_one_the_log_says_why() {
    let service = Setup::shipped("workers = 1").control(None).serve();
    let said = serves_without(&service);
    assert_eq!(said.text("level"), "info");
    assert!(said.text("reason").contains("XDG_RUNTIME_DIR"), "{said}");
    let service = of_login().args(&["--control", "none"]).serve();
    let said = serves_without(&service);
    assert_eq!(said.text("reason"), "--control is none");
}
