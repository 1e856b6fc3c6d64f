//! A configuration that is wrong is found before anything is replaced.

use std::net::TcpListener;

use crate::stage::{OLD, Stage};
use crate::support::service::Setup;

#[test]
fn a_syntax_error() {
    let stage = Stage::set();
    stage.service.configure("workers = = 2");
    stage.rolls_back("payload.toml:1:11");
}

#[test]
fn an_unknown_key_and_another() {
    let stage = Stage::set();
    stage.service.configure("wrokers = 3\nthraeds = 1");
    stage.rolls_back("did you mean 'workers'?; ");
}

#[test]
fn settings_of_the_app_that_the_app_does_not_take() {
    let stage = Stage::set();
    stage.service.configure("[app]\nload = 'badly'");
    stage.rolls_back("badly");
}

#[test]
fn settings_of_the_app_that_the_app_does_not_know() {
    let stage = Stage::set();
    let misspelt = OLD.to_owned() + "[app.preload]\nconduckt = 'ok'\n";
    stage.service.configure(&misspelt);
    stage.rolls_back("unknown key 'app.preload.conduckt'; did you mean 'app.preload.conduct'?");
}

#[test]
fn leaving_its_own_sockets_when_idle() {
    let stage = Stage::set();
    stage
        .service
        .configure(&("idle_exit = '5m'\n".to_owned() + OLD));
    stage.rolls_back("payload.toml:1:13: idle_exit = 5m needs sockets that systemd keeps");
}

#[test]
fn no_file_any_more() {
    let stage = Stage::set();
    std::fs::remove_file(stage.service.folder().join("payload.toml")).unwrap();
    stage.rolls_back("payload.toml");
}

#[test]
fn an_address_that_somebody_else_has() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let stage = Stage::of(on_a_port_of_the_file());
    let taken = format!(
        "listen = ['127.0.0.1:0', '{}']\n",
        other.local_addr().unwrap()
    );
    stage.service.configure(&(taken + OLD));
    let output = stage.service.reload();
    stage.rolled_back(&output, "in use");
    stage
        .service
        .configure(&("listen = '127.0.0.1:0'\n".to_owned() + &OLD.replace("old", "new")));
    stage.succeeds();
}

#[test]
fn a_socket_path_where_a_file_stands_and_one_where_it_cannot() {
    let stage = Stage::of(on_a_port_of_the_file());
    let folder = stage.service.folder().to_owned();
    stage.service.write("busy", "not a socket");
    let listen = |path: &str| {
        let (good, bad) = (folder.join("good"), folder.join(path));
        format!(
            "listen = ['127.0.0.1:0', 'unix:{}', 'unix:{}']\n{OLD}",
            good.display(),
            bad.display()
        )
    };
    for (path, reason) in [("busy", "is not a socket"), ("none/http", "No such file")] {
        stage.service.configure(&listen(path));
        let output = stage.service.reload();
        stage.rolled_back(&output, reason);
        assert!(!folder.join("good").exists(), "what was bound is removed");
    }
    assert_eq!(
        std::fs::read_to_string(folder.join("busy")).unwrap(),
        "not a socket"
    );
    stage
        .service
        .configure(&("listen = '127.0.0.1:0'\n".to_owned() + &OLD.replace("old", "new")));
    stage.succeeds();
}

fn on_a_port_of_the_file() -> Setup {
    let configuration = "listen = '127.0.0.1:0'\n".to_owned() + OLD;
    Setup::new(&configuration).listen(None).installed()
}
