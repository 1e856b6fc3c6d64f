
// ---- What happens: the lifecycle events, in words
const SHOWN = 120;         // lines of the story, and as many details
let newest = 0;            // the number of the newest event of this run of the service
let day = null;            // its day
const text = (event, name) => known(event.fields[name]) ? String(event.fields[name]) : "";
const at = event => known(event.slot) ? `Worker ${event.slot}` + (known(event.generation) ? ` of generation ${event.generation}` : "") : "A worker";
const seconds = (event, name) => brief(event.fields[name]);
const why = event => text(event, "reason") ? ": " + text(event, "reason") : "";
const PHASES = {
  loading: "calls load()", starting: "runs the startup of its app", prepared: "is prepared, and waits until it may serve", serving: "serves: it takes connections",
  draining: "drains: it takes nothing new and finishes what it has", cleaning: "stops its payloads and tears its app down", exited: "has ended its work", failed: "gives up",
};
const CAUSES = { boot: "", reload: " for the new generation", failure: " in place of one that failed", scale: " for one more slot", max_requests: ", since one has served enough requests", max_age: ", since one is old enough", max_memory: ", since one uses too much memory", slots: ", since the number of slots has changed" };
const LIMITS = { max_requests: "has served enough requests", max_age: "is old enough", max_memory: "uses too much memory", slots: "was made for another number of slots" };
const STOPS = { graceful: "requests finish", quick: "requests are cancelled", kill: "workers are killed, and what is left of their cleanup does not run" };
const CLEANUP = ", payloads stop, apps clean up";
const stops = event => (STOPS[text(event, "stop")] ?? "requests end") + (text(event, "stop") === "kill" ? "" : CLEANUP);
const whose = event => `“${text(event, "payload")}”` + (known(event.fields.lease_slot) ? " of slot " + event.fields.lease_slot : "");
const RELEASES = {
  stopped: (payload, worker) => `Payload ${payload} has stopped in ${worker}`, finished: (payload, worker) => `Payload ${payload} has finished in ${worker}`,
  failed: (payload, worker) => `Payload ${payload} has failed in ${worker}`, died: (payload, worker) => `Payload ${payload} is gone with ${worker}`,
  undelivered: (payload, worker) => `Payload ${payload} did not reach ${worker}`, "not taken": (payload, worker) => `Payload ${payload} did not begin in ${worker}`,
};
const SAY = {
  "service-starting": e => `The service starts: ${plural(Number(text(e, "workers")), "worker")} to be forked`,
  "preloaded": () => "The preload is done; every worker forked from now on shares its result",
  "service-ready": () => "Every worker serves: the service is ready",
  "service-degraded": e => `The service is degraded: ${text(e, "serving")} of ${text(e, "workers")} workers serve` + (text(e, "payload") ? `, and payload ${whose(e)} has failed or lost its worker ${text(e, "failures")}×` + (known(e.fields.delay_seconds) ? `: nobody runs it for ${seconds(e, "delay_seconds")}` : "") : "") + (text(e, "leases") ? ", and payloads that need a lease wait for the end of an earlier life of the service" : ""),
  "service-recovered": () => "Every worker serves again, and no payload is left that nobody runs",
  "service-idle": () => "Nobody has needed the service: it leaves, and the next connection starts it again",
  "service-stopping": e => text(e, "restart") === "true" ? `The service stops, to be started again: its connections are kept, ${stops(e)}` : `The service stops: ${stops(e)}`,
  "stop-hurried": e => `Asked again to stop: ${stops(e)}`,
  "service-stopped": () => "The service has stopped",
  "boot-failed": e => "The service could not start" + why(e),
  "fork-failed": e => `No process for slot ${e.slot}` + why(e),
  "worker-forked": e => `${at(e)} is forked` + (CAUSES[text(e, "cause")] ?? "") + ": a new process, and nothing runs in it yet",
  "worker-phase": e => `${at(e)} ${PHASES[text(e, "phase")] ?? "is " + text(e, "phase")}`,
  "worker-replaced": e => `${at(e)} has taken over its slot`,
  "connections-handed-on": e => !e.fields.given ? `${at(e)} has handed on no connection` : `${at(e)} has handed on ${plural(Number(text(e, "given")), "open connection")}: ${e.fields.given === 1 ? "its client notices" : "their clients notice"} nothing`,
  "worker-exited": e => `${at(e)} has ended, as it was told`,
  "worker-failed": e => `${at(e)} has failed: ${text(e, "exit")}` + (text(e, "reason") ? ", " + text(e, "reason") : ""),
  "worker-stuck": e => `${at(e)} is stuck in phase ${text(e, "phase")}: it is ended`,
  "worker-killed": e => `${at(e)} is killed: what is left of its cleanup does not run`,
  "worker-backoff": e => `Slot ${e.slot} has failed ${text(e, "failures")}×: its next worker comes in ${seconds(e, "delay_seconds")}`,
  "recycle": e => `${at(e)} ${LIMITS[text(e, "cause")] ?? "has reached a limit"}: it serves on until it is replaced`,
  "slot-count-changed": e => `The number of workers goes from ${text(e, "from")} to ${text(e, "to")}`,
  "slot-count-refused": e => `${text(e, "wanted")} workers are not possible`,
  "signal-received": e => `The arbiter got ${text(e, "signal")}`,
  "reload-started": () => "A reload has begun: the program on disk is checked, while the old workers serve",
  "image-changed": e => `The arbiter ${{ forward: "runs the program that is on disk now", back: "is back in the program that ran before" }[text(e, "direction")] ?? "goes on in a new image"}, in the same process`,
  "reloaded": e => `Generation ${e.generation} has taken over, after ${seconds(e, "seconds")}`,
  "reload-failed": e => "The reload failed, and the workers from before it serve on" + why(e),
  "connections-kept": e => `${plural(Number(text(e, "kept")), "connection")} kept over the restart`,
  "connections-adopted": e => `${plural(Number(text(e, "adopted")), "connection")} of the last run taken over`,
  "socket-acquired": e => `Listening on ${text(e, "address")}, ${text(e, "origin") === "passed" ? "passed by the service manager" : "bound here"}`,
  "arbiter-lost": e => `${at(e)} has lost its arbiter: it drains and leaves`,
  "step-failed": e => `${at(e)}: the step “${text(e, "step")}” failed: ${text(e, "error")}`,
  "payload-started": e => `${at(e)}: payload “${text(e, "payload")}” runs` + (Number(text(e, "restarts")) ? ` again (${text(e, "restarts")}×)` : ""),
  "payload-ended": e => `${at(e)}: payload “${text(e, "payload")}” has stopped`,
  "payload-failed": e => `${at(e)}: payload “${text(e, "payload")}” failed: ${text(e, "cause")}`,
  "payloads-kept": e => `What ${plural(Number(text(e, "kept")), "payload")} left for the next start is kept over the restart` + (Number(text(e, "lost")) ? `, that of ${text(e, "lost")} is lost` : ""),
  "lease-granted": e => `Payload ${whose(e)} goes to ${at(e).toLowerCase()}` + (e.fields.gap_seconds > 0 ? `, after ${seconds(e, "gap_seconds")} with nobody` : ""),
  "lease-revoked": e => `Payload ${whose(e)} is to stop in ${at(e).toLowerCase()}`,
  "lease-released": e => RELEASES[text(e, "cause")]?.(whose(e), at(e).toLowerCase()) ?? `Payload ${whose(e)} has left ${at(e).toLowerCase()}`,
  "lease-pauses": e => `Payload ${whose(e)} has failed or lost its worker ${text(e, "failures")}×: it waits ${seconds(e, "delay_seconds")}`,
};
const GOOD = new Set(["service-ready", "reloaded", "service-recovered"]);
let announced = 0, unheard = [];

// The newest stands on top, under its day.
function happened(events, missed = 0) {
  const log = $("log");
  const fresh = events.filter(event => event.number > newest);
  const isFirst = !log.querySelector("[data-event]");
  if (isFirst && fresh.length) log.querySelector(".none")?.remove();
  if (missed) put(above("missed"), `${plural(missed, "event")} that this worker has not heard of`);
  for (const event of fresh) {
    newest = event.number;
    const date = new Date(event.time * 1000);
    if (date.toDateString() !== day) {
      day = date.toDateString();
      const line = make("li", { class: "day" });
      put(line, date.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long", year: "numeric" }));
      log.prepend(line);
    }
    const item = above(`${GOOD.has(event.name) ? "good" : event.level}` + (event.detail ? " detail" : "") + (isFirst ? "" : " fresh"));
    item.dataset.event = event.name;
    const [when, body, words, name] = [make("time"), make("div"), make("p"), make("code")];
    when.dateTime = date.toISOString();
    put(when, clock(date));
    when.title = date.toLocaleString();
    const sentence = SAY[event.name]?.(event) ?? event.message;
    put(words, sentence);
    put(name, event.name + (known(event.pid) ? "  pid " + event.pid : ""));
    body.append(words, name);
    item.append(when, body);
    if (!isFirst && !event.detail) unheard.push(sentence);
  }
  trim(log);
  announce();
}

// A new line, on top of the others of its day.
function above(kind) {
  const line = make("li", { class: kind });
  const top = $("log").querySelector(":scope > .day");
  if (top && top === $("log").firstElementChild) top.after(line);
  else $("log").prepend(line);
  return line;
}

// Another run of the service begins.
function begin(arbiter) {
  newest = 0;
  put(above("run"), `Another run of the service: arbiter ${arbiter.pid}`);
}

// The story and the details make no room for each other. A day without a line has no heading.
function trim(log) {
  for (const kind of ["[data-event]:not(.detail)", ".detail", ".run, .missed"])
    [...log.querySelectorAll(kind)].slice(SHOWN).forEach(line => line.remove());
  for (const heading of log.querySelectorAll(".day"))
    if (!heading.nextElementSibling || heading.nextElementSibling.matches(".day")) heading.remove();
}

// A screen reader hears the last of what happened, and how much else, at most every few seconds.
function announce() {
  if (!unheard.length || announced) return;
  const more = unheard.length - 1;
  put($("heard"), unheard.at(-1) + (more ? `; and ${more} more before it` : ""));
  unheard = [];
  announced = setTimeout(() => { announced = 0; announce(); }, 5000);
}

$("detail").onchange = event => $("log").classList.toggle("all", event.target.value === "all");
