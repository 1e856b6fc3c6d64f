//! The page in a real browser, served by the real binary on a socket that the test passes.
//!
//! Needs Chromium (Debian: `apt-get install chromium`). Without it the tests say that they were skipped; with
//! `CI` in the environment that is a failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod browser;
mod events;
mod moves;
mod reload;
mod sentences;
mod time;

use std::net::TcpListener;

use browser::Browser;
use support::service::{Service, Setup};

/// A browser, or `None` after saying why not.
fn browser() -> Option<Browser> {
    let Some(program) = browser::find() else {
        support::skip("there is no Chromium on this machine");
        return None;
    };
    Some(Browser::start(&program))
}

/// Where nobody else takes the port when it is free for a while.
fn socket() -> (TcpListener, String) {
    let socket = TcpListener::bind((support::own_loopback(), 0)).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    (socket, url)
}

/// The real binary on a passed socket; it may not yet accept, but a connection waits in the socket's queue.
fn start(socket: TcpListener, workers: u32) -> Service {
    start_with(socket, &format!("workers = {workers}"))
}

fn start_with(socket: TcpListener, configuration: &str) -> Service {
    Setup::shipped(configuration).pass(socket).start()
}

const LIVE: &str = "document.body.dataset.link === 'live'";

#[test]
fn it_shows_the_service_as_it_is_and_moves() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let service = start(socket, 2);
    browser.open(&url);
    browser.until(LIVE);

    let arbiter = browser.text("#a-pid");
    assert_eq!(arbiter, format!("pid {}", service.pid()));
    browser.until("document.querySelectorAll('.row').length === 2");
    browser
        .until("[...document.querySelectorAll('.phase')].every(p => p.textContent === 'serving')");
    for (count, says) in [(".loads-n", "1×"), (".starts-n", "1×"), (".stops-n", "0×")] {
        let script = format!(
            "[...document.querySelectorAll('{count}')].every(n => n.textContent === '{says}')"
        );
        browser.until(&script);
    }
    browser.until("document.querySelector('.tasks').innerText.includes('sampler')");
    browser.until("document.querySelectorAll('.mine:not([hidden])').length === 1");

    let up = browser.text("#a-up");
    browser.until(&format!(
        "document.querySelector('#a-up').textContent !== '{up}'"
    ));
    browser.until("samples.length >= 3");
    browser.until("document.querySelectorAll('.chart path')[1].getAttribute('d').includes('L')");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn it_says_when_the_connection_is_lost_and_comes_back_by_itself() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let address = socket.local_addr().unwrap();
    let first = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    assert!(browser.is("document.querySelector('#lost').hidden"));

    // The service has the only descriptor of the socket: when it ends, connections are refused.
    let gone = first.pid();
    assert_eq!(first.stop(), 0);
    browser
        .until("document.body.dataset.link === 'lost' && !document.querySelector('#lost').hidden");
    assert_eq!(browser.text("#link"), "Connection lost, retrying");
    assert!(
        browser
            .is("document.querySelector('#last').textContent.startsWith('What you see is from')")
    );
    assert!(browser.is("document.title.startsWith('connection lost')"));

    let second = start(TcpListener::bind(address).unwrap(), 1);
    assert_ne!(second.pid(), gone);
    browser.until(LIVE);
    for event in ["service-starting", "service-ready"] {
        browser.until(&format!(
            "document.querySelector('#log [data-event={event}]') !== null"
        ));
    }
    browser.until(&format!(
        "document.querySelector('#a-pid').textContent === 'pid {}'",
        second.pid()
    ));
    assert!(browser.is("document.querySelector('#lost').hidden"));
}

#[test]
fn it_moves_to_the_next_service_of_the_same_socket_without_an_alarm() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let first = start(socket.try_clone().unwrap(), 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.is("globalThis.states = [], new MutationObserver(() => states.push(document.body.dataset.link)) \
        .observe(document.body, { attributes: true }), true");
    assert_eq!(first.stop(), 0);
    let second = start(socket, 1);
    browser.until(&format!(
        "document.querySelector('#a-pid').textContent === 'pid {}'",
        second.pid()
    ));
    assert!(browser.is("states.includes('wait') && !states.includes('lost')"));
    assert_eq!(browser.complaints(), [""; 0]);
}
