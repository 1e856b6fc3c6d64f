//! What the page shows while the service changes under it.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use super::support::eventually;
use super::support::http::Client;
use super::support::service::{LIMIT, signal_to};
use super::{LIVE, browser, socket, start, start_with};

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

#[test]
fn who_takes_another_place_does_not_arrive_again() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let service = start(socket, 2);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("document.querySelectorAll('.row.new').length === 2");
    browser.is("globalThis.shows = service, service = event => { globalThis.event = event; shows(event); }, true");
    browser.until("globalThis.event !== undefined");
    let pids = "[...document.querySelectorAll('.row .pid')].map(n => n.textContent).join()";
    let before = browser.value(pids);
    // In one go, so that the service itself says nothing in between.
    let swapped = browser.value(&format!(
        "event.service.workers.forEach(worker => worker.slot = 1 - worker.slot), shows(event), \
         {pids} + ' ' + document.querySelector('.row').classList.contains('new')"
    ));
    let (first, second) = before.split_once(',').unwrap();
    assert_eq!(swapped, format!("{second},{first} false"));
    drop(service);
}

/// How many `/api/vitals` answers.
pub(crate) fn samples(address: SocketAddr) -> Option<usize> {
    let vitals = Client::connect(address).ok()?.get("/api/vitals").ok()?;
    let vitals: serde_json::Value = serde_json::from_str(&vitals.body).ok()?;
    Some(vitals["samples"].as_array()?.len())
}

#[test]
fn without_a_sampler_it_says_how_old_the_data_is_and_shows_the_service_on() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let address = socket.local_addr().unwrap();
    let service = start_with(
        socket,
        "workers = 2\ntimeouts.heartbeat_serving = '10m'\n[app]\nsample_interval = '100ms'",
    );
    service.event("service-ready");
    eventually("some samples", LIMIT, || {
        samples(address).filter(|count| *count > 5)
    });
    let holder = eventually("a sampler", LIMIT, || {
        service.status()["leases"][0]["holder"]["pid"].as_u64()
    });
    let holder = u32::try_from(holder).unwrap();
    signal_to(holder, Signal::SIGSTOP);
    eventually("a word about it", LIMIT, || {
        let health = Client::connect(address).ok()?.get("/healthz").ok()?;
        health.body.contains("has been silent for").then_some(())
    });

    // Somebody who comes only now is told as well, at once.
    browser.open(&url);
    browser.until(LIVE);
    let says = browser.text("#sampled");
    let age = says
        .strip_prefix("no data for ")
        .map(|rest| rest.split(' ').next());
    let age: Option<u32> = age.flatten().and_then(|age| age.parse().ok());
    assert!(age.is_some_and(|age| age >= 5), "{says}");
    assert!(says.ends_with("is silent"), "{says}");
    let up = browser.text("#a-up");
    browser.until(&format!(
        "document.querySelector('#a-up').textContent !== '{up}'"
    ));
    // What was measured long ago is not shown as of now; what the service counts itself is.
    browser.until("[...document.querySelectorAll('.cpu')].every(n => n.textContent === '–')");
    browser.until("/, [0-9.,]+ requests\\/s,/.test(document.querySelector('#sum').textContent)");
    // A rate is that of the last second.
    eventually("a rate", LIMIT, || {
        let busy = std::iter::repeat_with(|| Client::connect(address)?.get("/healthz"));
        assert!(busy.take(10).all(|answer| answer.is_ok()));
        browser
            .is("[...perWorker.values()].some(rate => rate > 0)")
            .then_some(())
    });

    signal_to(holder, Signal::SIGCONT);
    browser.until("document.querySelector('#sampled').textContent.startsWith('measured by')");
    browser.until("[...document.querySelectorAll('.cpu')].every(n => n.textContent !== '–')");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn with_nobody_to_hold_the_sampler_it_does_not_say_who_measures() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("samples.length >= 1");
    for (age, says) in [
        ("0", "no worker runs the sampler at this moment"),
        ("60000", "no data for 1 min 0 s: no worker runs the sampler"),
    ] {
        let script = format!("sampler = null, lastSample = then - {age}, sampled()");
        browser.is(&format!(
            "(act => {{ const then = performance.now(); performance.now = () => then; \
             try {{ act(then); }} finally {{ delete performance.now; }} }})(then => {{ {script}; }}), \
             globalThis.said = document.querySelector('#sampled').textContent, true"
        ));
        assert_eq!(browser.value("said"), says);
    }
}

#[test]
fn it_asks_once_more_when_a_worker_without_the_past_has_answered() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let address = socket.local_addr().unwrap();
    let _service = start_with(socket, "workers = 1\n[app]\nsample_interval = '100ms'");
    eventually("some samples", LIMIT, || {
        samples(address).filter(|count| *count > 20)
    });
    browser.open(&url);
    browser.until("samples.length > 20");
    // As if a worker that has just come to life gave the next two answers, the second after a longer pause.
    let script = "globalThis.first = String(samples[0].place), globalThis.asks = [], globalThis.real = fetch, \
        fetch = async address => { \
            const response = await real(address); \
            asks.push(address); \
            if (asks.length > 2) return response; \
            const answer = await response.json(); \
            answer.samples = answer.samples.slice(-1); \
            answer.oldest = answer.samples[0].place; \
            return new Response(JSON.stringify(answer)); \
        }";
    // Somebody who has nothing yet, and somebody who has been away and misses a part.
    for forgets in ["samples = [], asked = 0", "samples = samples.slice(0, 5)"] {
        browser.is(&format!("{script}, {forgets}, connect(), true"));
        browser.until("asks.length === 3 && String(samples[0].place) === first");
        browser.until("samples.every((sample, at) => !at || sample.place[1] === samples[at - 1].place[1] + 1)");
        browser.is("fetch = real, true");
    }
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn another_run_of_the_service_is_known_by_its_age_and_a_worker_that_lags_is_none() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.is("source.close(), source = null, clearTimeout(silence), run[1] = 100, true");
    for (uptime, is_another) in [
        (99, false),
        (97, false),
        (101, false),
        (96, true),
        (97, false),
    ] {
        let script = format!("meet({{ pid: run[0], uptime: {uptime}, version }}) === {is_another}");
        assert!(browser.is(&script), "{uptime}");
    }
}

#[test]
fn it_is_alive_only_when_it_has_shown_what_came() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.is("service = () => { throw new Error('spoiled by the test') }, true");
    browser.until("document.body.dataset.link === 'lost'");
    assert!(
        browser
            .complaints()
            .iter()
            .any(|said| said.contains("spoiled by the test"))
    );
}

#[test]
fn it_offers_itself_anew_when_the_service_is_of_another_version() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    assert!(browser.is("document.querySelector('#renew').hidden"));
    browser.is("version = '0.0.0', true");
    browser.until("!document.querySelector('#renew').hidden");
    browser.is("globalThis.before = true, document.querySelector('#anew').click(), true");
    browser.until("typeof before === 'undefined' && document.querySelector('#renew').hidden");
    browser.until(LIVE);
}

#[test]
fn a_table_says_how_much_of_it_is_not_shown() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    assert!(browser.is("document.querySelector('#leases').tFoot.hidden"));
    browser.is(
        "globalThis.lease = slot => ({ payload: 'p', scope: 'slot', slot, holder: null, finished: false, grants: 0, gap: 0 }), \
         leases(Array.from({ length: 70 }, (_, slot) => lease(slot))), \
         globalThis.seen = [document.querySelector('#leases').tBodies[0].rows.length, document.querySelector('#leases').tFoot.checkVisibility(), document.querySelector('#leases').tFoot.innerText.trim()].join(), true",
    );
    assert_eq!(browser.value("seen"), "64,true,and 6 more");
}
