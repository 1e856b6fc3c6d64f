//! Listening sockets over a reload: kept, bound anew, closed, or put back.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use crate::stage::{OLD, Stage};
use crate::support::http::get;
use crate::support::process::wait_for_end_of;
use crate::support::service::{Service, Setup};
use crate::support::{DEADLINE, eventually, skip};

#[test]
fn a_new_address_is_served_and_one_that_is_gone_is_closed_at_the_commit() {
    let setup = Setup::new(&listening("127.0.0.1:0', 'unix:@FOLDER@/one", "old"));
    let stage = Stage::of(in_its_folder(setup));
    let folder = stage.service.folder().to_owned();
    let (one, two) = (folder.join("one"), folder.join("two"));
    drop(UnixStream::connect(&one).unwrap());

    configure(
        &stage.service,
        &listening("127.0.0.1:0', 'unix:@FOLDER@/two", "new"),
    );
    stage.reload();
    stage.service.message("no longer listening");
    assert!(!one.exists(), "its file is removed");
    drop(UnixStream::connect(&two).unwrap());
    let sockets = stage.service.status()["sockets"].to_string();
    assert!(
        sockets.contains("/two") && !sockets.contains("/one"),
        "{sockets}"
    );
    stage.ends();
    assert!(!two.exists(), "removed at the end");
}

#[test]
fn a_tcp_address_that_is_gone_refuses() {
    let setup = Setup::new(&listening("127.0.0.1:0', '127.0.0.2:0", "old"));
    let stage = Stage::of(in_its_folder(setup));
    let gone = stage.service.addresses()[1];
    drop(TcpStream::connect(gone).unwrap());
    configure(&stage.service, &listening("127.0.0.1:0", "new"));
    stage.reload();
    // The last worker that had it may still be leaving.
    eventually("a refusal", DEADLINE, || {
        let refused = TcpStream::connect(gone).err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    stage.ends();
}

#[test]
fn a_rollback_closes_what_the_new_generation_had_bound() {
    let setup = Setup::new(&listening("127.0.0.1:0", "old"));
    let stage = Stage::of(in_its_folder(setup));
    let two = stage.service.folder().join("two");
    let failing = listening("127.0.0.1:0', '127.0.0.2:0', 'unix:@FOLDER@/two", "new");
    configure(&stage.service, &(failing + "startup = 'fail'\n"));
    let output = stage.service.reload();
    stage.rolled_back(&output, "no such table");
    let bound = stage.service.event_where("socket-acquired", |event| {
        event.text("address").starts_with("127.0.0.2:")
    });
    let bound: SocketAddr = bound.text("address").parse().unwrap();
    let refused = TcpStream::connect(bound).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(!two.exists());
    configure(&stage.service, &listening("127.0.0.1:0", "new"));
    stage.succeeds();
}

#[test]
fn passed_sockets_stay_whatever_the_file_says() {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = passed.local_addr().unwrap();
    let service = Setup::new(OLD).installed().pass(passed).serve();
    assert_eq!(get(address, "/word").body, "old");
    service.configure(&listening("127.0.0.3:0", "new"));
    for _ in 0..3 {
        assert!(service.reload().status.success());
        // The old ones have gone.
        service.wait_until_serving(2);
        assert_eq!(get(address, "/word").body, "new");
        let sockets = &service.status()["sockets"];
        assert_eq!(sockets.as_array().unwrap().len(), 1);
        assert_eq!(sockets[0]["origin"], "passed");
    }
    assert_eq!(service.stop(), 0);
}

/// The disk is full: the log goes nowhere, and a socket's file has no room.
#[test]
fn a_log_on_a_full_disk_keeps_no_reload_from_its_end() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let service = Setup::new(OLD).installed().stderr(full).start();
    service.wait_until_serving(2);
    let before = service.workers();
    service.configure(&(OLD.to_owned() + "startup = 'fail'"));
    let output = service.reload();
    assert_eq!(output.status.code(), Some(70), "{output:?}");
    assert_eq!(service.workers(), before);
    let drops = service.status()["arbiter"]["log_drops"].as_u64();
    service.configure(OLD);
    assert!(service.reload().status.success());
    let now = service.status()["arbiter"]["log_drops"].as_u64();
    assert!(
        now > drops,
        "drops are counted on over a reload: {now:?} {drops:?}"
    );
    for pid in before {
        wait_for_end_of(pid);
    }
    assert_eq!(service.stop(), 0);
}

#[test]
fn a_socket_file_for_which_the_disk_has_no_room() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can fill a disk of its own");
    }
    // A file system that is full with its first directory and one file, and which nobody else sees.
    let script = r#"mkdir "$(dirname "$1")/disk" && cd "$(dirname "$1")"
        mount -t tmpfs -o nr_inodes=2 none disk && touch disk/file && exec "$@""#;
    let alone = ["unshare", "--mount", "sh", "-ec", script, "sh"];
    let setup = Setup::new(&listening("127.0.0.1:0", "old"));
    let stage = Stage::of(in_its_folder(setup).through(&alone));
    configure(
        &stage.service,
        &listening("127.0.0.1:0', 'unix:@FOLDER@/disk/http", "new"),
    );
    let output = stage.service.reload();
    stage.rolled_back(&output, "No space left on device");
    configure(&stage.service, &listening("127.0.0.1:0", "new"));
    stage.succeeds();
}

fn listening(addresses: &str, word: &str) -> String {
    format!("listen = ['{addresses}']\n{}", OLD.replace("old", word))
}

/// Its configuration may name its folder.
fn in_its_folder(setup: Setup) -> Setup {
    setup.listen(None).filled_in().installed()
}

fn configure(service: &Service, text: &str) {
    let folder = service.folder().display().to_string();
    service.configure(&text.replace("@FOLDER@", &folder));
}
