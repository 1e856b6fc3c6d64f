//! What a browser makes of it, where there is one: `WebSocket` and `EventSource` as pages use them.

#[path = "../vitals_page/browser.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod chromium;

use self::chromium::{Browser, find};
use crate::support::service::Setup;
use crate::support::skip;

#[test]
fn a_websocket_is_closed_cleanly_and_events_go_on_with_the_next_worker() {
    let Some(program) = find() else {
        return skip("there is no Chromium");
    };
    let mut browser = Browser::start(&program);
    let service = Setup::new("workers = 1")
        .args(&["--graceful-timeout=300ms"])
        .serve();
    let address = service.address();
    browser.open(&format!("http://{address}/word"));
    browser.value(&format!(
        "globalThis.socket = new WebSocket('ws://{address}/socket');
         socket.onopen = () => socket.send('hello');
         socket.onmessage = event => {{ globalThis.said = event.data }};
         socket.onclose = event => {{ globalThis.end = event }};
         globalThis.opened = 0, globalThis.last = '';
         globalThis.events = new EventSource('/events?ms=20');
         events.onopen = () => {{ opened += 1 }};
         events.onmessage = event => {{ last = event.data }}; ''"
    ));
    let old = service.workers()[0];
    browser.until("said === 'hello'");
    browser.until(&format!("opened === 1 && last === '{old}'"));

    assert!(service.reload().status.success());
    browser.until("end.code === 1001 && end.wasClean");
    let new = service.workers()[0];
    assert_ne!(new, old);
    browser.until(&format!("opened === 2 && last === '{new}'"));
}
