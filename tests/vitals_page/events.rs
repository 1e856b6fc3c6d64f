//! The lifecycle events on the page.

use super::{LIVE, browser, socket, start};

const LINES: &str = "document.querySelectorAll('#log [data-event]:not(.detail)').length";

#[test]
fn they_appear_as_they_happen_in_words() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let service = start(socket, 2);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("document.querySelector('#log').innerText.includes('Every worker serves: the service is ready')");
    browser.is("globalThis.same = true");
    // Not one that answers a question, and not the one that streams: the browser would complain, and rightly.
    browser.until("asked > 0");
    browser.until("document.querySelectorAll('.mine:not([hidden])').length === 1");
    let streams = browser.text(".row:has(.mine:not([hidden])) .pid");
    let status = service.status();
    let mut workers = status["workers"].as_array().unwrap().iter();
    let victim = workers.find(|worker| streams != format!("pid {}", worker["pid"]));
    let victim = victim.unwrap()["pid"].as_u64().unwrap();
    super::support::service::signal_to(
        u32::try_from(victim).unwrap(),
        nix::sys::signal::Signal::SIGKILL,
    );
    browser.until(
        "document.querySelector('#log .error')?.innerText.includes('of generation 1 has failed')",
    );
    browser
        .until("document.querySelector('#log').innerText.includes('in place of one that failed')");
    assert!(browser.is("same"), "the page was not loaded again");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn a_flood_of_them_floods_neither_the_page_nor_the_ear() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("newest > 0");
    // All of it at once, as if nothing had been said for a while: the boot may not be over.
    browser.is(
        "clearTimeout(announced), announced = 0, unheard = [], globalThis.said = 0, \
         new MutationObserver(all => said += all.length).observe(document.querySelector('#heard'), { childList: true }), \
         (() => { for (let n = 1; n <= 1000; n++) happened([{ number: newest + 1, time: 1, name: 'worker-failed', level: 'error', \
         message: '', worker: 1, slot: 0, generation: 1, pid: 1, fields: { exit: 'signal ' + n } }]); return true; })()",
    );
    assert_eq!(browser.number(LINES), 120.0);
    assert!(browser.text("#log [data-event]").contains("signal 1000"));
    // Five seconds later it says what there was in between.
    browser.until("document.querySelector('#heard').textContent.includes('and 998 more')");
    assert_eq!(browser.number("said"), 2.0);
}

#[test]
fn the_details_of_many_workers_leave_the_story_as_it_is() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("document.querySelector('#log [data-event=service-ready]') !== null");
    browser.is(
        "(() => { for (let n = 1; n <= 1000; n++) happened([{ number: newest + 1, time: 1, name: 'worker-exited', level: 'info', \
         message: '', detail: true, worker: 1, slot: 0, generation: 1, pid: 1, fields: {} }]); return true; })()",
    );
    assert!(
        browser.is("document.querySelector('#log [data-event=service-ready]').checkVisibility()")
    );
    assert_eq!(
        browser.number("document.querySelectorAll('#log .detail').length"),
        120.0
    );
}

#[test]
fn what_a_worker_has_not_heard_of_is_said() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("newest > 0");
    browser.is("happened([], 3), true");
    assert_eq!(
        browser.text("#log .missed"),
        "3 events that this worker has not heard of"
    );
}

#[test]
fn an_event_that_it_does_not_know_has_the_words_of_the_log() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("newest > 0");
    // In one go: the next one of the service's own would stand above it.
    let said = browser.value(
        "happened([{ number: newest + 1, time: 1, name: 'from-the-future', level: 'warn', message: '<b>something</b>', \
         worker: null, slot: null, generation: null, pid: null, fields: {} }]), \
         ['p', 'code'].map(part => document.querySelector('#log [data-event] ' + part).textContent).join()",
    );
    assert_eq!(said, "<b>something</b>,from-the-future");
}
