
// ---- The connection: what comes over the stream, and what is shown when it does not
const AT_A_TIME = 10;      // seconds: the first event comes within them
let pending = [];          // the place from which on the past is here or asked for; empty: not asked
let patience = 0, askAt = 0; // how many seconds to wait before the past is asked for once more, and until when
let touched = false;       // somebody has chosen the range
let source = null, timer = null, silence = null, wait = 0, lastSeen = null;
let run = null;            // of the arbiter: [pid, uptime] of the last event that told more than the one before
let version = null;        // of the arbiter that this page came from

function linked(state, words) {
  // Who has just asked to try again must not lose his place.
  if (state !== "lost" && $("lost").contains(document.activeElement)) $("service").focus({ preventScroll: true });
  document.body.dataset.link = state;
  put($("link"), words);
  $("lost").hidden = state !== "lost";
  document.title = (state === "lost" ? "connection lost · " : "") + "payload · vitals";
  if (state === "lost") put($("last"), lastSeen ? "What you see is from " + clock(lastSeen) + "." : "");
}

function connect() {
  clearTimeout(timer);
  source?.close();
  if (document.hidden) return pause();
  const mine = source = new EventSource("api/vitals/stream");
  let isFirst = true;
  hush(AT_A_TIME);
  const on = (kind, act) => mine.addEventListener(kind, event => { if (mine === source) act(JSON.parse(event.data)); });
  on("vitals", news => {
    const isAnother = meet(news.service.arbiter);
    if (known(news.capacity)) ({ interval, capacity } = news);
    // It may know more than who was asked: a new worker hears the past a little later.
    const isShort = known(news.oldest) && (!pending.length || isBefore(news.oldest, pending));
    if (isFirst || isAnother || isShort && performance.now() >= askAt) fill(mine, news.oldest, isFirst && !isAnother);
    isFirst = false;
    if (news.sample) remember([news.sample]);
    lastSample = known(news.age) ? performance.now() - 1000 * news.age : null;
    service(news);
    if (news.events) happened(news.events);
    draw();
    sampled();
    seen();
  });
  on("lifecycle", news => {
    meet(news.service.arbiter);
    service(news);
    happened(news.events, news.missed);
    sampled();
    seen();
  });
  on("drain", () => {
    // This worker leaves; its siblings or its replacement answer. No reason for alarm.
    mine.close();
    source = null;
    linked("wait", "Moving to another worker");
    again(0.1);
  });
  mine.onerror = () => { if (mine === source) lose(); };
}

// All of an event has been shown: only then is the page alive.
function seen() {
  wait = 0;
  lastSeen = new Date();
  linked("live", "Live");
  hush(3 * interval + 4);
}

// Whether this is another run of the service: its events and samples have no order with those of the last one. What
// another worker's stream begins with was written up to one and a half intervals ago.
function meet(arbiter) {
  const isAnother = run !== null && (arbiter.pid !== run[0] || arbiter.uptime < run[1] - 1.5 * interval - 2);
  run = [arbiter.pid, run && !isAnother ? Math.max(run[1], arbiter.uptime) : arbiter.uptime];
  if (isAnother) {
    samples = [];
    asked = 0;
    forget();
    begin(arbiter);
  }
  version ??= arbiter.version;
  $("renew").hidden = version === arbiter.version;
  return isAnother;
}

function hush(seconds) {
  clearTimeout(silence);
  silence = setTimeout(lose, seconds * 1000);
}

function lose() {
  source?.close();
  source = null;
  clearTimeout(silence);
  linked("lost", "Connection lost, retrying");
  again(wait = Math.min(5, 2 * wait + 0.5));
}

function again(seconds) {
  clearTimeout(silence);
  clearTimeout(timer);
  // Not all pages at the same moment.
  timer = setTimeout(connect, seconds * 1000 * (0.75 + 0.5 * Math.random()));
}

// Asks for the past: as much as is shown, or only for what came after the newest that is known. Another worker than the
// one whose stream this is may answer, and have less of it.
async function fill(of, oldest, isMore) {
  const count = wanted();
  const last = isMore && asked >= count && samples.at(-1);
  pending = oldest ?? [];
  try {
    const response = await fetch("api/vitals" + (last ? "?after=" + last.place : "?last=" + count));
    if (of !== source) return;
    if (!response.ok) throw new Error(response.statusText);
    const answer = await response.json();
    if (of !== source) return;
    remember(answer.samples);
    const from = answer.oldest ?? [];
    const isAll = last ? from.length && !isBefore(last.place, from) : answer.samples.length >= count;
    const isEnough = isAll || from.length && !isBefore(pending, from);
    if (!last) asked = count;
    if (isEnough) patience = 0; else later(from);
    offer();
    // A service that has just begun fills a minute first.
    if (isEnough && !touched && !last && answer.samples.length * interval < 90) $("range").querySelector("input").click();
    paint();
  } catch {
    // The stream tells when the connection is gone; else an event asks anew.
    if (of === source) later([]);
  }
}

function later(from) {
  pending = from;
  asked = 0;
  patience = Math.min(30, 2 * patience + 1);
  askAt = performance.now() + 1000 * patience;
}

$("again").onclick = connect;
$("anew").onclick = () => location.reload();
$("range").onchange = event => {
  touched = event.isTrusted || touched;
  shown = Number(event.target.value);
  if (source && wanted() > asked) fill(source, pending, false);
  paint();
};

// A page that nobody sees lets go, so that the service may fall asleep.
function pause() {
  source?.close();
  source = null;
  clearTimeout(silence);
  linked("wait", "Paused while out of sight");
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) {
    timer = setTimeout(pause, 20000);
  } else if (!source) {
    linked("wait", "Connecting");
    wait = 0;
    connect();
  }
});

connect();
