//! What the page shows during a reload.

use std::net::SocketAddr;

use super::support::eventually;
use super::support::http::Client;
use super::support::service::{LIMIT, Quiet as _, signal_to};
use super::{LIVE, browser, socket, start, start_with};

#[test]
fn a_reload_shows_both_generations_and_then_the_new_one() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    // Long enough for a page whose worker gets no processor for a while.
    let service = start_with(socket, "workers = 2\nreload.trial = '4s'");
    browser.open(&url);
    browser.until(LIVE);
    browser.until("document.querySelectorAll('.row').length === 2");
    browser.is(
        "globalThis.most = '', new MutationObserver(() => { \
         const seen = [...document.querySelectorAll('.gen')].map(g => g.dataset.generation).join(); \
         if (seen.length > most.length) most = seen; }).observe(document.querySelector('#tree'), { childList: true }), true",
    );
    assert!(service.reload().status.success());
    browser.until("document.querySelector('.gen h3 b').textContent === 'Generation 2' && document.querySelectorAll('.gen').length === 1");
    assert_eq!(
        browser.value("most"),
        "1,2",
        "side by side, the old one first"
    );
    browser.until("document.querySelectorAll('.row').length === 2 && [...document.querySelectorAll('.phase')].every(p => p.textContent === 'serving')");
    browser.until("document.querySelector('#a-gen').textContent === '2'");
    for event in ["reload-started", "image-changed", "reloaded"] {
        browser.until(&format!(
            "document.querySelector('#log [data-event={event}]') !== null"
        ));
    }
    browser.until(
        "document.querySelector('#log').innerText.includes('Generation 2 has taken over, after')",
    );
    let twice = "(seen => seen.length - new Set(seen).size)([...document.querySelectorAll('#log [data-event=reloaded]')].map(l => l.innerText))";
    assert_eq!(
        browser.number(twice),
        0.0,
        "each event once, although the stream was another"
    );
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn a_reload_that_fails_says_why() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    service.configure("workers = 1\nno_such_key = true\n");
    assert!(!service.reload().status.success());
    browser.until("!document.querySelector('#a-trouble').hidden && document.querySelector('#a-trouble').textContent.includes('no_such_key')");
    browser.until("document.querySelector('#log [data-event=reload-failed]')?.innerText.includes('the workers from before it serve on: ')");
    service.configure("workers = 1\n");
    assert!(service.reload().status.success());
    browser.until("document.querySelector('#a-trouble').hidden");
}

/// An HTTP/2 client that leaves no room for the body of what it asks for: that stays in flight.
fn greedy(address: SocketAddr) -> Client {
    let mut client = Client::connect(address).unwrap();
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
        [&head[..], payload].concat()
    };
    // RFC 9113: SETTINGS with an INITIAL_WINDOW_SIZE of 0, and HEADERS that end the headers and the stream. RFC 7541:
    // GET, http, /, and the authority "x".
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let headers = frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'x']);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    client
        .send_bytes([&preface[..], &settings, &headers].concat())
        .unwrap();
    client
}

/// The word beside the name of a generation.
fn role(generation: u32) -> String {
    format!(
        "document.querySelector('.gen[data-generation=\"{generation}\"] .role:not([hidden])').textContent"
    )
}

/// Whether every worker of it answers a request.
fn is_busy(generation: u32) -> String {
    format!(
        "[...document.querySelectorAll('.gen[data-generation=\"{generation}\"] .row:not(.gone) .flight')].every(n => Number(n.textContent) > 0)"
    )
}

#[test]
fn a_generation_that_fails_on_trial_is_taken_back_and_the_old_one_serves_on() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let address = socket.local_addr().unwrap();
    let service = start_with(socket, "workers = 2\nreload.trial = '10m'");
    browser.open(&url);
    browser.until(LIVE);
    browser.until("document.querySelectorAll('.row').length === 2");
    browser.is(
        "globalThis.roles = new Set(), new MutationObserver(() => { for (const g of document.querySelectorAll('.gen')) \
         { const role = g.querySelector('.role'); if (!role.hidden) roles.add(g.dataset.generation + ' ' + role.textContent); } }) \
         .observe(document.querySelector('#tree'), { subtree: true, childList: true, attributes: true }), true",
    );
    let reload = service.reload_command().spawn_quiet();
    browser.until(&format!("{} === 'is on trial'", role(2)));
    browser.until(&format!(
        "{} === 'serves until the new one has proved itself'",
        role(1)
    ));

    let mut clients = Vec::new();
    eventually("a request for each new worker", LIMIT, || {
        if clients.len() < 200 {
            clients.push(greedy(address));
        }
        browser.is(&is_busy(2)).then_some(())
    });
    let victim = "document.querySelector('.gen[data-generation=\"2\"] .row:has(.mine[hidden]) .pid').textContent";
    let victim = browser.value(victim);
    let victim = victim.strip_prefix("pid ").unwrap().parse().unwrap();
    signal_to(victim, nix::sys::signal::Signal::SIGKILL);
    browser.until(&format!("{} === 'is taken back'", role(2)));
    browser.until(&format!("{} === 'serves'", role(1)));
    assert!(!reload.wait_with_output().unwrap().status.success());
    browser.until(
        "document.querySelector('#a-trouble').textContent.startsWith('The last reload failed: the new worker of slot')",
    );
    browser.until("document.querySelector('#log [data-event=image-changed]').innerText.includes('is back in the program that ran before')");
    browser.until("document.querySelectorAll('#log [data-event=image-changed]')[1].innerText.includes('runs the program that is on disk now')");
    drop(clients);
    browser.until("document.querySelectorAll('.gen').length === 1 && document.querySelector('.gen').dataset.generation === '1'");
    let roles = browser.value("[...roles].filter(role => /1 leaves|2 serves/.test(role)).join()");
    assert_eq!(roles, "", "it never was so");
}

/// The generation of the worker in which the sampler sits, as the tree shows it and as the table does.
const SEAT: &str = "[...document.querySelectorAll('.tasks .holds')].map(h => h.closest('.gen').dataset.generation).join()";
const HELD_BY: &str = "(document.querySelector('#leases tbody tr')?.cells[1].innerText ?? '')";

#[test]
fn the_sampler_sits_in_one_worker_and_moves_with_a_reload_and_its_history_with_it() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let service = start(socket, 2);
    browser.open(&url);
    browser.until(LIVE);
    browser.until(&format!(
        "{SEAT} === '1' && {HELD_BY}.includes('generation 1')"
    ));
    browser.until("document.querySelectorAll('.tasks .elsewhere').length === 1");
    browser.until("document.querySelector('#sampled').textContent.endsWith('generation 1')");
    browser.until("asked > 0 && samples.length >= 3");
    let first = browser.number("samples[0].time");
    assert!(service.reload().status.success());
    browser.until(&format!(
        "{SEAT} === '2' && {HELD_BY}.includes('generation 2')"
    ));
    browser.until(
        "document.querySelector('#log').innerText.includes('Payload “sampler” goes to worker')",
    );
    browser.until("document.querySelector('#sampled').textContent.endsWith('generation 2')");

    // Somebody who comes only now sees what was before.
    browser.open(&url);
    browser.until(&format!(
        "samples.length >= 4 && samples[0].time === {first}"
    ));
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn while_an_old_worker_drains_only_the_new_one_holds_the_sampler() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let address = socket.local_addr().unwrap();
    let service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until(&format!("{SEAT} === '1'"));
    let slow = greedy(address);
    browser.until("Number(document.querySelector('.flight').textContent) >= 2");
    browser.is(
        "globalThis.most = 0, new MutationObserver(() => most = Math.max(most, document.querySelectorAll('.tasks .holds').length)) \
         .observe(document.querySelector('#tree'), { subtree: true, childList: true, attributes: true }), true",
    );
    assert!(service.reload().status.success());
    browser.until(&format!("{SEAT} === '2'"));
    browser.until(&format!(
        "{} === 'leaves' && {} === 'serves'",
        role(1),
        role(2)
    ));
    browser.until(
        "document.querySelector('.gen[data-generation=\"1\"] .phase').textContent === 'draining'",
    );
    browser.until(
        "document.querySelector('.gen[data-generation=\"1\"] .tasks').innerText.includes('done')",
    );
    assert_eq!(browser.number("most"), 1.0);
    drop(slow);
    browser.until("document.querySelectorAll('.gen').length === 1");
    assert_eq!(browser.complaints(), [""; 0]);
}
