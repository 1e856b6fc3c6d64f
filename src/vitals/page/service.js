
// ---- The service: the arbiter, its workers by generation, what only one of them runs, and the sockets
const LIFE = ["forked", "loading", "starting", "prepared", "serving", "draining", "cleaning", "exited"];
const TONE = { serving: "good", draining: "leave", cleaning: "leave", exited: "leave", failed: "bad" };
const STATE = { ready: "good", booting: "boot", reloading: "boot", degraded: "bad", stopping: "leave" };
const APP = { forked: "not built yet", loading: "load() runs", starting: "starting", prepared: "ready, waits for its turn", serving: "running", draining: "finishes its requests", cleaning: "stopping", exited: "stopped", failed: "failed" };
const TASK = { running: "good", waiting: "boot", restarting: "boot", done: "leave", failed: "bad" };
const ORIGIN = { passed: "passed by the service manager", bound: "bound by the arbiter" };
const SAMPLER = /(^|: )sampler$/; // where this app is mounted below a path, its name begins with that
const rows = new Map();    // by pid
let requests = new Map();  // pid to its requests, at the moment of the last measurement
let counted = null;        // that moment, by the arbiter's own clock
let perWorker = new Map(); // pid to requests per second
let uses = new Map();      // pid to CPU and memory
let holders = new Map();   // lease to the pid of its holder
let sampler = null;        // who holds the sampler's

function tone(node, base, name) { const all = base + " is-" + (name ?? "boot"); if (node.className !== all) node.className = all; }
const flash = (node, name) => { node.classList.remove(name); void node.offsetWidth; node.classList.add(name); };

// Requests per second, over about a second at least. Everything in an event is of one moment.
function measure({ arbiter, workers }) {
  const passed = counted === null ? null : arbiter.uptime - counted;
  if (passed !== null && passed < .9) return;
  if (passed !== null) {
    const old = workers.filter(worker => requests.has(worker.pid));
    perWorker = new Map(old.map(worker => [worker.pid, Math.max(0, worker.requests - requests.get(worker.pid)) / passed]));
  }
  requests = new Map(workers.map(worker => [worker.pid, worker.requests]));
  counted = arbiter.uptime;
}

// Nothing of the last run of the service is compared with this one.
function forget() {
  requests = new Map();
  perWorker = new Map();
  holders = new Map();
  counted = null;
}

function service({ pid, service, processes }) {
  const { arbiter, workers } = service;
  if (processes) uses = new Map(processes.map(process => [process.pid, process]));
  put($("a-pid"), "pid " + arbiter.pid);
  put($("a-state"), arbiter.state);
  tone($("a-state"), "pill", STATE[arbiter.state]);
  const [says, trouble] = arbiter.status.split("; the last reload failed: ");
  const up = workers.filter(worker => worker.phase === "serving").length;
  put($("a-says"), says || `${up}/${arbiter.workers} workers serving, generation ${arbiter.generation}`);
  put($("a-trouble"), trouble ? "The last reload failed: " + trouble : "");
  $("a-trouble").hidden = !trouble;
  put($("a-up"), span(arbiter.uptime));
  put($("a-gen"), String(arbiter.generation));
  put($("a-want"), String(arbiter.workers));
  put($("a-cpu"), percent(uses.get(arbiter.pid)?.cpu));
  put($("a-mem"), bytes(uses.get(arbiter.pid)?.memory));
  put($("a-version"), arbiter.version);
  const drops = workers.reduce((sum, worker) => sum + worker.log_drops, arbiter.log_drops);
  put($("drops"), drops ? plural(drops, "log record") + " dropped by the processes that are here" : "");

  measure(service);
  const total = key => workers.reduce((sum, worker) => sum + worker[key], 0);
  const all = [...perWorker.values()].reduce((sum, rate) => sum + rate, 0);
  put($("sum"), `${plural(total("connections"), "connection")}, ${perWorker.size ? rate(all).replace("/s", " requests/s") : dash}, ${plural(total("requests"), "request")} by these workers`);
  put($("q-loads"), `Now: ${plural(workers.length, "worker")}, load ran ${count(total("loads"))}×.`);
  put($("q-cycles"), `Of the apps that are here now: ${plural(total("starts"), "start")}, ${plural(total("stops"), "stop")}.`);
  const oldest = workers.filter(worker => worker.phase === "serving").sort((a, b) => b.since - a.since)[0];
  put($("q-life"), oldest ? `The oldest that serves: for ${span(oldest.since)}, in ${named(oldest.slot, oldest.generation)}.` : "None serves now.");

  // The old generation on the left, the new one on the right: time goes that way. Two workers of one slot stand together.
  const generations = [...new Set(workers.map(worker => worker.generation))].sort((a, b) => a - b);
  const tree = $("tree");
  const gone = [...tree.children].filter(box => !generations.includes(Number(box.dataset.generation)));
  for (const box of gone) {
    const [, words, role] = box.firstChild.children;
    put(words, ": all its workers have ended");
    role.hidden = true;
  }
  const stage = /^reloading \((.+?)\)/.exec(arbiter.status)?.[1];
  const isTrial = generations.some(generation => generation > arbiter.generation);
  for (const generation of generations) {
    let box = tree.querySelector(`[data-generation="${generation}"]`);
    if (!box) {
      box = make("section", { class: tree.children.length ? "gen new" : "gen", "data-generation": generation, "aria-label": "Generation " + generation });
      box.append(make("h3"), make("ol"));
      box.firstChild.append(make("b"), make("span"), " ", make("span", { class: "pill role" }));
    }
    const next = [...tree.children].find(other => Number(other.dataset.generation) > generation) ?? null;
    if (!box.isConnected) tree.insertBefore(box, next);
    const own = workers.filter(worker => worker.generation === generation).sort((a, b) => a.slot - b.slot || a.pid - b.pid);
    const [title, list] = box.children;
    box.classList.toggle("many", own.length > 6);
    const ghosts = list.querySelectorAll(".gone").length;
    const serving = own.filter(worker => worker.phase === "serving").length;
    const [name, words, role] = title.children;
    put(name, "Generation " + generation);
    put(words, ": " + plural(own.length, "worker") + (serving === own.length && serving > 1 ? ", all serving" : `, ${serving} serving`));
    const is = tree.children.length < 2 ? null
      : generation < arbiter.generation ? "leaves"
      : generation === arbiter.generation ? isTrial && stage ? "serves until the new one has proved itself" : "serves"
      : trial(stage, own);
    put(role, is ?? "");
    role.hidden = !is;
    tone(role, "pill role", is === "gets ready" ? "boot" : is === "leaves" ? "leave" : is === "is taken back" ? "bad" : "good");
    own.forEach((worker, at) => {
      const row = rowOf(worker.pid);
      if (ghosts ? !row.isConnected : list.children[at] !== row) {
        row.classList.toggle("new", !row.isConnected); // One that only takes another place has arrived already.
        list.insertBefore(row, list.children[ghosts ? -1 : at] ?? null);
      }
      update(row, worker, uses.get(worker.pid), perWorker.get(worker.pid), worker.pid === pid, service.leases);
    });
  }
  const alive = new Set(workers.map(worker => worker.pid));
  for (const [pid, row] of rows) if (!alive.has(pid)) leave(pid, row);
  leases(service.leases);
  sockets(service.sockets);
}

// What a generation is that has not been committed. The stage comes a moment later than the phases.
function trial(stage, own) {
  const steps = own.map(worker => LIFE.indexOf(worker.phase));
  if (stage === "trial") return "is on trial";
  if (stage !== "going back" && steps.every(step => step >= 0 && step < 4)) return "gets ready";
  return stage && stage !== "going back" && !steps.includes(-1) ? "gets ready" : "is taken back";
}

// Rows for so many things of which the table has no more than `most`, and a last line for the rest.
function lines(table, all, most, width, words) {
  const body = table.tBodies[0];
  const count = Math.min(all, most);
  table.tFoot.hidden = all <= most;
  put(table.tFoot.rows[0].cells[0], `and ${all - count} more`);
  if (!count) {
    if (!body.querySelector(".empty")) { body.replaceChildren(make("tr")); body.firstChild.append(make("td", { class: "empty", colspan: width })); }
    put(body.firstChild.firstChild, words);
    return [];
  }
  if (body.querySelector(".empty")) body.replaceChildren();
  while (body.rows.length > count) body.lastChild.remove();
  while (body.rows.length < count) {
    const row = make("tr");
    for (let at = 0; at < width; at++) row.append(make(at ? "td" : "th", at ? {} : { scope: "row" }));
    body.append(row);
  }
  return [...body.rows];
}

function two(cell, first, second) {
  if (!cell.firstChild) cell.append(make("span"), make("small"));
  put(cell.firstChild, first);
  put(cell.lastChild, second);
}

function leases(list) {
  lines($("leases"), list.length, 64, 4, "No payload needs one.").forEach((row, at) => {
    const { payload, scope, slot, holder, finished, grants, gap, failures, again_in } = list[at];
    const again = failures ? `failed ${failures}×` + (known(again_in) ? `, again in ${span(Math.ceil(again_in))}` : "") : "";
    const [name, where, since, before] = row.cells;
    two(name, payload, scope === "service" ? "one in the service" : "one for slot " + slot);
    two(where, holder ? "Worker " + holder.slot : finished ? "finished" : "nobody", holder ? `generation ${holder.generation}, pid ${holder.pid}` + (holder.leaving ? ", giving it back" : "") + (again && ", " + again) : again);
    where.firstChild.className = holder || finished ? "" : "nobody";
    put(since, holder ? span(holder.since) : dash);
    since.className = "num";
    two(before, grants ? brief(gap) : dash, grants ? `granted ${count(grants)}×` : "never granted");
    const key = payload + " " + slot;
    if (holder && holders.has(key) && holders.get(key) !== holder.pid) flash(row, "moved");
    if (holder) holders.set(key, holder.pid);
  });
  sampler = list.find(lease => SAMPLER.test(lease.payload))?.holder ?? null;
}

function sockets(list) {
  lines($("sockets"), list.length, 32, 3, "none").forEach((row, at) => {
    put(row.cells[0], list[at].address);
    put(row.cells[1], list[at].name);
    put(row.cells[2], ORIGIN[list[at].origin] ?? list[at].origin);
  });
}

// One that has ended stays for a moment, so that the eye can follow.
function leave(pid, row) {
  rows.delete(pid);
  row.classList.add("gone");
  put(row.querySelector(".phase"), "has ended");
  tone(row.querySelector(".phase"), "pill phase", "leave");
  row.querySelector(".mine").hidden = true;
  for (const cell of row.querySelectorAll(".work dd, .app dd")) put(cell, dash);
  put(row.querySelector(".since"), "");
  put(row.querySelector(".app .sum"), "gone with its worker");
  row.querySelector(".tasks").replaceChildren(make("li", { class: "empty" }));
  put(row.querySelector(".tasks li"), "none left");
  setTimeout(() => {
    const box = row.closest(".gen");
    row.remove();
    if (box && !box.querySelector(".row")) box.remove();
  }, 3000);
}

function rowOf(pid) {
  if (!rows.has(pid)) rows.set(pid, $("worker").content.firstElementChild.cloneNode(true));
  return rows.get(pid);
}

function update(row, worker, uses, perSecond, isMine, leases) {
  const one = name => row.querySelector(name);
  put(one("h4"), "Worker " + worker.slot);
  put(one(".pid"), "pid " + worker.pid);
  one(".mine").hidden = !isMine;
  put(one(".phase"), worker.phase);
  tone(one(".phase"), "pill phase", TONE[worker.phase]);
  put(one(".since"), "for " + span(worker.since) + (worker.restarts ? ", slot restarted " + count(worker.restarts) + "×" : ""));
  const step = LIFE.indexOf(worker.phase === "failed" ? "exited" : worker.phase);
  tone(one(".life"), "life", TONE[worker.phase]);
  [...one(".life").children].forEach((tick, at) => tick.className = at < step ? "was" : at === step ? "now" : "");
  put(one(".connections"), count(worker.connections));
  put(one(".flight"), count(worker.in_flight));
  put(one(".rate"), rate(perSecond));
  put(one(".cpu"), percent(uses?.cpu));
  put(one(".memory"), bytes(worker.memory || uses?.memory || null));
  const beat = one(".beat");
  const late = worker.heartbeat >= 3;
  put(beat, worker.heartbeat.toFixed(1) + " s ago");
  beat.className = "beat";
  if (late) beat.classList.add("late");
  else if (worker.heartbeat < 1.5 * Math.max(1, interval)) requestAnimationFrame(() => beat.classList.add("now"));
  put(one(".loads-n"), worker.loads + "×");
  put(one(".starts-n"), worker.starts + "×");
  put(one(".stops-n"), worker.stops + "×");
  put(one(".app .sum"), APP[worker.phase] ?? "");
  const list = one(".tasks");
  if (!worker.payloads.length) {
    list.replaceChildren(make("li", { class: "empty" }));
    put(list.firstChild, "none");
    return;
  }
  if (list.children.length !== worker.payloads.length || list.querySelector(".empty"))
    list.replaceChildren(...worker.payloads.map(() => { const item = make("li"); item.append(make("b"), make("span"), make("small", { class: "one" }), make("small")); return item; }));
  worker.payloads.forEach((payload, at) => {
    const item = list.children[at];
    const [name, state, scope, times] = item.children;
    const needs = payload.scope !== "worker";
    const lease = needs && leases.find(lease => lease.payload === payload.name && (lease.slot ?? worker.slot) === worker.slot);
    const holds = lease && lease.holder?.pid === worker.pid;
    const elsewhere = needs && !holds && payload.state === "waiting";
    put(name, payload.name);
    // A lease that has come and a payload that runs are two moments; the page says what the worker says.
    put(state, elsewhere ? lease?.holder ? `held by worker ${lease.holder.slot}` + (lease.holder.generation === worker.generation ? "" : `, gen. ${lease.holder.generation}`) : "waits for its lease" : payload.state);
    tone(state, elsewhere ? "pill quiet" : "pill", TASK[payload.state]);
    put(scope, needs ? payload.scope === "service" ? "one in the service" : "one for each slot" : "");
    scope.hidden = !needs;
    put(times, payload.restarts ? "restarted " + count(payload.restarts) + "×" : "");
    times.hidden = !payload.restarts;
    const now = needs ? holds ? "holds" : "elsewhere" : "";
    if (item.dataset.now !== now) {
      const before = item.dataset.now;
      item.dataset.now = now;
      item.className = now;
      if (now === "holds" && before === "elsewhere") flash(item, "moved");
    }
  });
}
