//! Clocks that are set, runs that follow each other, histories of every length.

use super::moves::samples;
use super::support::eventually;
use super::support::service::LIMIT;
use super::{LIVE, browser, socket, start, start_with};

/// A sample of the page with this place and time.
const SAMPLE: &str = "globalThis.sample = (epoch, number, time, busy) => ({ place: [epoch, number], time, cpu: { busy, cores: [] }, \
    memory: null, pressure: {}, load: null, disk: null, network: null, uptime: null, service: {} }), true";

#[test]
fn after_a_restart_with_an_earlier_clock_it_shows_what_happens_and_what_is_measured() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let first = start(socket.try_clone().unwrap(), 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("newest > 0 && samples.length >= 2");
    // As if the clock had been far ahead so far.
    browser.is("newest *= 2, samples.forEach(sample => sample.place[0] *= 2), true");
    assert_eq!(first.stop(), 0);
    let second = start(socket, 1);
    let own = format!(
        "document.querySelector('#a-pid').textContent === 'pid {}'",
        second.pid()
    );
    browser.until(&own);
    browser.until(&format!(
        "document.querySelector('#log .run').textContent === 'Another run of the service: arbiter {}'",
        second.pid()
    ));
    let after = "[...document.querySelectorAll('#log li')].findIndex(line => line.dataset.event === 'service-ready')";
    let line =
        "[...document.querySelectorAll('#log li')].findIndex(line => line.className === 'run')";
    browser.until(&format!("{after} >= 0 && {after} < {line}"));
    browser.until("samples.length >= 2 && samples.every(sample => sample.place[0] < 2e15)");
    browser.until("document.querySelectorAll('.chart path')[1].getAttribute('d').includes('L')");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// It may be of an earlier run, and what is shown begins anew.
#[test]
fn an_answer_to_a_stream_that_is_over_is_forgotten() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("asked > 0");
    browser.is(SAMPLE);
    // An answer of which the head has come.
    browser.is(
        "fetch = async () => ({ ok: true, json: () => new Promise(done => globalThis.give = () => done({ samples: [sample(1, 0, 100, .1)] })) }),          fill(source, null, false), true",
    );
    browser.until("globalThis.give !== undefined");
    browser.is("source.close(), source = null, clearTimeout(silence), samples = [], give(), true");
    assert_eq!(browser.number("samples.length"), 0.0);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_the_charts() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("samples.length >= 1");
    browser.is(SAMPLE);
    browser.is(
        "source.close(), source = null, clearTimeout(silence), samples = [], remember([sample(1, 0, 100, .1), sample(1, 1, 101, .2)]), remember([sample(1, 2, 71, .3)]), \
         remember([sample(1, 1, 101, .2), sample(1, 3, 72, .4)]), paint(), true",
    );
    assert_eq!(
        browser.value("samples.map(s => s.place[1]).join()"),
        "0,1,2,3"
    );
    assert_eq!(
        browser.value("samples.map(s => s.at).join()"),
        "100,101,102,103"
    );
    assert_eq!(browser.text(".sign .value b"), "40%");
}

#[test]
fn days_are_named_and_midnight_is_the_first_hour_of_one() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("newest > 0");
    let tell = "globalThis.tell = (...when) => happened([{ number: newest + 1, time: new Date(...when) / 1000, name: 'recycle', level: 'info', \
         message: '', detail: false, worker: 1, slot: 0, generation: 1, pid: 1, fields: {} }]), \
         tell(2031, 4, 1, 23, 59, 50), tell(2031, 4, 2, 0, 5, 12), tell(2031, 4, 2, 0, 6, 0)";
    let lines = "[...document.querySelectorAll('#log li')].slice(0, 5).map(l => l.matches('.day') ? l.textContent : l.querySelector('time').textContent)";
    // In one go: the next one of the service's own would stand above them.
    let lines = browser.value(&format!("{tell}, {lines}.join('; ')"));
    assert_eq!(
        lines,
        "Friday, May 2, 2031; 00:06:00; 00:05:12; Thursday, May 1, 2031; 23:59:50"
    );
}

#[test]
fn it_asks_for_as_much_as_it_shows_and_draws_no_more_than_can_be_seen() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let address = socket.local_addr().unwrap();
    let _service = start_with(
        socket,
        "workers = 1\n[app]\nsample_interval = '100ms'\nhistory = '1h'",
    );
    // Where there is no past yet, it asks a second time.
    eventually("a sample", LIMIT, || {
        samples(address).filter(|count| *count > 0)
    });
    browser.open(&url);
    browser.until(LIVE);
    browser.until("asked > 0");
    let ranges = "[...document.querySelectorAll('#range label')].map(l => l.textContent).join()";
    assert_eq!(browser.value(ranges), "1 min,5 min,15 min,60 min");
    browser.is("document.querySelector('#range [value=\"3600\"]').click(), true");
    browser.until("asked === 36000");
    let questions: Vec<_> = browser
        .asked()
        .iter()
        .filter_map(|address| address.split_once("/api/vitals?"))
        .map(|(_, query)| query.to_owned())
        .collect();
    assert_eq!(questions, ["last=3002", "last=36000"]);

    browser.is(SAMPLE);
    browser.is(
        "source.close(), clearTimeout(silence), samples = [], \
         remember(Array.from({ length: 36000 }, (_, n) => sample(1, n, n / 10, n === 20000 ? 1 : .1))), paint(), true",
    );
    let path = "document.querySelectorAll('.chart path')[1].getAttribute('d')";
    let points = browser.number(&format!("{path}.split('L').length"));
    assert!((500.0..=601.0).contains(&points), "{points}");
    assert!(
        browser.is(&format!("/ 0\\.0/.test({path})")),
        "no peak is left out"
    );
    browser.is(
        "globalThis.times = 0, globalThis.old = paint, paint = () => { times++; old(); }, true",
    );
    browser.is("(() => { for (let n = 0; n < 100; n++) draw(); return true; })()");
    browser.until("times === 1");
}

#[test]
fn a_short_history_has_one_range() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start_with(socket, "workers = 1\n[app]\nhistory = '1m'");
    browser.open(&url);
    browser.until(LIVE);
    browser.until("[...document.querySelectorAll('#range label')].map(l => l.textContent).join() === '1 min' && shown === 60");
}
