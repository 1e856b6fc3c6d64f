//! For every eye, hand and ear.

use std::net::TcpListener;

use super::browser::Browser;
use super::support::service::Quiet as _;
use super::{LIVE, browser, socket, start, start_with};

/// For every piece of text, and for the lines of the tree: the contrast with what is behind it, as WCAG 2.2 computes it.
const FAINT: &str = r"
    (() => {
        const numbers = color => color.match(/[\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
            .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
            .reduce((sum, v, at) => sum + v * [.2126, .7152, .0722][at], 0);
        const behind = node => {
            for (; node; node = node.parentElement) {
                const color = numbers(getComputedStyle(node).backgroundColor);
                if (color.length === 3 || color[3] === 1) return color;
            }
            return [255, 255, 255];
        };
        // What an element and those around it let through.
        const opacity = node => node ? Number(getComputedStyle(node).opacity) * opacity(node.parentElement) : 1;
        const filtered = node => node && (getComputedStyle(node).filter !== 'none' || filtered(node.parentElement));
        const faint = [];
        const judge = (name, node, color, least) => {
            const paper = behind(node), part = opacity(node) * (color[3] ?? 1);
            const [a, b] = [light(color.slice(0, 3).map((v, at) => v * part + paper[at] * (1 - part))), light(paper)];
            const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            if (contrast < least || filtered(node)) faint.push(name + ': ' + contrast.toFixed(2));
        };
        for (const row of document.querySelectorAll('.row')) {
            if (getComputedStyle(row, '::after').content === 'none') continue;
            judge('the trunk', row.closest('#tree'), numbers(getComputedStyle(row, '::after').borderLeftColor), 3);
        }
        for (const wire of document.querySelectorAll('.wire, .node')) {
            if (wire.checkVisibility()) judge('a wire', wire.parentElement, numbers(getComputedStyle(wire).borderTopColor), 3);
        }
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
            const node = texts.currentNode.parentElement;
            if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest('script, style, noscript')) continue;
            judge(texts.currentNode.data.trim(), node, numbers(getComputedStyle(node).color), 4.5);
        }
        return faint.join('\n');
    })()";

const SCREENS: [(u32, u32); 4] = [(320, 640), (390, 844), (768, 1024), (1440, 900)];

/// The page as it stands, on every screen, by day and by night. Gives the colors of the paper.
#[track_caller]
fn readable(browser: &mut Browser) -> Vec<String> {
    let mut papers = Vec::new();
    for (width, height) in SCREENS {
        for scheme in ["light", "dark"] {
            browser.look(width, height, scheme);
            // What comes, or takes another place, is faint for half a second, on a busy machine for longer.
            browser.until("document.getAnimations().every(one => one.animationName !== 'arrive')");
            let wide = browser.number("document.documentElement.scrollWidth");
            assert!(
                wide <= f64::from(width),
                "{width} px wide: the page needs {wide} px"
            );
            let cut = browser.value(CUT);
            assert_eq!(cut, "", "cut off at {width} px");
            let faint = browser.value(FAINT);
            assert_eq!(faint, "", "too faint in the {scheme}, {width} px");
            papers.push(browser.value("getComputedStyle(document.body).backgroundColor"));
        }
    }
    papers
}

/// What sticks out of the box that it belongs to.
const CUT: &str = "[...document.querySelectorAll('.node, td, th, .sign')].filter(n => n.checkVisibility() && n.scrollWidth > n.clientWidth + 1) \
    .map(n => n.className + ': ' + n.innerText).join()";

const UNFOLD: &str = "document.querySelectorAll('details').forEach(d => d.open = true), document.querySelector('[value=all]').click(), true";

#[test]
fn it_is_readable_on_a_phone_and_on_a_desk_by_day_and_by_night() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 2);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("document.querySelectorAll('#log li').length > 3 && samples.length > 1");
    browser.is(UNFOLD);
    let papers = readable(&mut browser);
    assert_ne!(papers[0], papers[1], "the night has its own paper");
}

#[test]
fn two_generations_of_many_workers_are_readable_too() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let service = start_with(socket, "workers = 7\nreload.trial = '1h'");
    browser.open(&url);
    browser.until(LIVE);
    browser.until("document.querySelectorAll('.gen.many .row').length === 7");
    browser.is(UNFOLD);
    let mut reload = service.reload_command().spawn_quiet();
    browser.until(
        "document.querySelector('.gen[data-generation=\"2\"] .role').textContent === 'is on trial'",
    );
    browser.until("document.querySelectorAll('.gen.many').length === 2");
    readable(&mut browser);
    assert_eq!(service.stop(), 0);
    reload.wait().unwrap();
}

#[test]
fn it_is_as_readable_when_the_connection_is_lost_and_tries_again_by_the_keyboard() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let address = socket.local_addr().unwrap();
    let first = start(socket, 2);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("document.querySelectorAll('#log li').length > 3 && samples.length > 1");
    browser.is(UNFOLD);
    let alive = browser.value(COLORS);
    assert_eq!(first.stop(), 0);
    browser.until("document.body.dataset.link === 'lost'");
    // What has ended stays for a moment.
    browser.until("document.querySelectorAll('.gone').length === 0");
    assert_ne!(browser.value(COLORS), alive, "it has lost its colors");
    readable(&mut browser);

    // Nobody tries again but the user, nor is about to.
    browser.is(
        "again = () => {}, clearTimeout(timer), clearTimeout(silence), source?.close(), source = null, true",
    );
    let _second = start(TcpListener::bind(address).unwrap(), 1);
    browser.is("document.activeElement.blur(), true");
    for _ in 0..3 {
        browser.key("Tab");
        if browser.value("document.activeElement.id") == "again" {
            break;
        }
    }
    assert_eq!(browser.value("document.activeElement.id"), "again");
    assert_ne!(browser.value(RING), "none");
    browser.until("document.body.dataset.link === 'lost'");
    browser.key("Enter");
    browser.until("document.body.dataset.link !== 'lost'");
    assert_eq!(
        browser.value("document.activeElement.id"),
        "service",
        "the focus is not lost"
    );
}

/// What is green while all is well.
const COLORS: &str = "getComputedStyle(document.querySelector('#a-state')).color + getComputedStyle(document.querySelector('.chart path.a')).stroke";

/// How the element that has the focus can be told from the others.
const RING: &str = "getComputedStyle(document.activeElement.matches('input') ? document.activeElement.parentElement \
    : document.activeElement).outlineStyle";

#[test]
fn it_can_be_used_from_the_keyboard_and_named_by_a_screen_reader() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 1);
    browser.open(&url);
    browser.until(LIVE);
    browser.until("samples.length >= 2 && document.querySelectorAll('#log li').length > 3");

    // In the order of the page, and each of them visibly.
    let mut stops = Vec::new();
    loop {
        browser.key("Tab");
        let stop = browser.value(
            "(n => n === document.body ? '' : n.name || n.id || n.closest('details')?.id || n.className || n.getAttribute('href') \
             || n.tagName)(document.activeElement)",
        );
        if stop.is_empty() || stops.len() > 40 {
            break;
        }
        assert_ne!(
            browser.value(RING),
            "none",
            "the focus on {stop} cannot be seen"
        );
        stops.push(stop);
    }
    let expected = [
        "skip",
        "detail",
        "log",
        "questions",
        "SUMMARY",
        "range",
        "api/vitals?last=1",
        "api/service",
        "api/events",
        "api/vitals/stream",
        "healthz",
    ];
    assert_eq!(stops, expected);

    browser.is("document.querySelector('#range input:checked').focus(), true");
    let before = browser.number("shown");
    browser.key("ArrowRight");
    assert!(browser.number("shown") > before, "an arrow key shows more");
    browser.is("document.querySelector('#detail input:checked').focus(), true");
    browser.key("ArrowRight");
    browser.until(
        "[...document.querySelectorAll('#log .detail')].some(line => line.checkVisibility())",
    );
    browser.is("document.querySelector('#questions summary').focus(), true");
    browser.key("Enter");
    browser.until("document.querySelector('#questions').open");
    browser
        .until("document.querySelector('#q-loads').textContent === 'Now: 1 worker, load ran 1×.'");

    for landmark in ["header", "main", "footer", "h1", "section[aria-labelledby]"] {
        assert!(
            browser.is(&format!("document.querySelector('{landmark}') !== null")),
            "{landmark}"
        );
    }
    let nameless = "[...document.querySelectorAll('[role=img]')].filter(i => !i.getAttribute('aria-label')).length";
    assert_eq!(browser.number(nameless), 0.0);
    let headless = "[...document.querySelectorAll('table')].filter(t => !t.caption || !t.querySelector('thead th[scope=col]')).length";
    assert_eq!(browser.number(headless), 0.0);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn nothing_moves_for_who_does_not_want_it() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let service = start(socket, 1);
    browser.calm();
    browser.open(&url);
    browser.until(LIVE);
    browser.until("newest > 0");
    browser.is("globalThis.moved = [], document.addEventListener('animationstart', e => moved.push(e.animationName)), true");
    assert!(service.reload().status.success());
    browser.until("document.querySelector('#log [data-event=reloaded]') !== null && document.querySelectorAll('.gen').length === 1");
    assert_eq!(browser.value("moved.join()"), "");
}
