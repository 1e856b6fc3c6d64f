//! For every eye, hand and ear.

use super::{LIVE, browser, socket, start};

/// For every piece of text: its contrast with what is behind it, as WCAG 2.2 computes it.
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
        const faint = [];
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
            const node = texts.currentNode.parentElement;
            if (!texts.currentNode.data.trim() || !node.checkVisibility() || node.closest('script, style, noscript')) continue;
            const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
            const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            if (contrast < 4.5) faint.push(texts.currentNode.data.trim() + ': ' + contrast.toFixed(2));
        }
        return faint.join('\n');
    })()";

#[test]
fn it_is_readable_on_a_phone_and_on_a_desk_by_day_and_by_night() {
    let Some(mut browser) = browser() else { return };
    let (socket, url) = socket();
    let _service = start(socket, 2);
    let mut papers = Vec::new();
    for (width, height) in [(320, 640), (390, 844), (768, 1024), (1440, 900)] {
        for scheme in ["light", "dark"] {
            browser.look(width, height, scheme);
            browser.open(&url);
            browser.until(LIVE);
            browser.until("document.querySelectorAll('#log li').length > 3");
            browser.is("document.querySelectorAll('details').forEach(d => d.open = true), document.querySelector('[value=all]').click(), true");
            let wide = browser.number("document.documentElement.scrollWidth");
            assert!(
                wide <= f64::from(width),
                "{width} px wide: the page needs {wide} px"
            );
            let faint = browser.value(FAINT);
            assert_eq!(faint, "", "too faint in the {scheme}");
            papers.push(browser.value("getComputedStyle(document.body).backgroundColor"));
        }
    }
    assert_ne!(papers[0], papers[1], "the night has its own paper");
}

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
        "/api/vitals?last=1",
        "/api/service",
        "/api/events",
        "/api/vitals/stream",
        "/healthz",
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
