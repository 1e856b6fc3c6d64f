//! What the page shows while the service changes under it.

use super::{LIVE, browser, socket, start};

#[test]
fn a_reload_shows_both_generations_and_then_the_new_one() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let service = start(socket, 2);
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
    browser.until("document.querySelector('#log [data-event=reload-failed]')?.innerText.includes('generation 1 serves on')");
    service.configure("workers = 1\n");
    assert!(service.reload().status.success());
    browser.until("document.querySelector('#a-trouble').hidden");
}

#[test]
fn it_asks_nobody_but_its_own_service() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    assert!(service.reload().status.success());
    browser.until("document.querySelector('#a-gen').textContent === '2'");
    let asked = browser.asked();
    assert!(
        asked
            .iter()
            .any(|address| address.ends_with("/api/vitals/stream")),
        "{asked:?}"
    );
    let foreign = |address: &&String| {
        !address.starts_with(&url) && !address.starts_with("data:") && *address != "about:blank"
    };
    assert_eq!(asked.iter().find(foreign), None);
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
    browser.until("samples.length >= 3");
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
fn without_a_sampler_it_says_that_there_is_no_data_and_shows_the_service_on() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("samples.length >= 1");
    // As the stream says it while nobody samples.
    let up = browser.text("#a-up");
    let says = "lastSample -= 60000, sampled(), document.querySelector('#sampled').textContent";
    assert!(browser.value(says).starts_with("no data for 1 min"));
    browser.until(&format!(
        "document.querySelector('#a-up').textContent !== '{up}'"
    ));
}
