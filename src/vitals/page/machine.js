
// ---- The machine: what was measured, and its charts
let samples = [];          // oldest first, by their places
let interval = 1;          // seconds between two samples
let capacity = 900;        // how many the service keeps
let shown = 300;           // seconds that the charts show
let asked = 0;             // how many of the last samples were asked for
let lastSample = null;     // when the newest was taken, on this page's own clock
let drawn = -Infinity, due = null;

const isBefore = (a, b) => a[0] !== b[0] ? a[0] < b[0] : a[1] < b[1];
const wanted = () => Math.min(capacity, Math.ceil(shown / interval) + 2);

// Each gets its moment on an axis that never goes back: the wall clock may have been set meanwhile.
function remember(more) {
  const last = samples.at(-1);
  if (!more.length) return;
  let from = samples.length;
  if (last && isBefore(last.place, more[0].place)) samples = samples.concat(more);
  else {
    const all = new Map([...samples, ...more].map(sample => [String(sample.place), sample]));
    samples = [...all.values()].sort((a, b) => isBefore(a.place, b.place) ? -1 : 1);
    from = 0;
  }
  for (let at = from; at < samples.length; at++) {
    const [before, sample] = [samples[at - 1], samples[at]];
    const passed = before && sample.time - before.time;
    sample.at = before ? before.at + (passed > 0 ? passed : interval) : sample.time;
  }
  samples = samples.slice(-capacity);
}

// The ranges that the service's history can fill.
function offer() {
  const most = Math.round(capacity * interval);
  const ranges = [60, 300, 900, 3600].filter(range => range < most).concat(most);
  const box = $("range");
  if (box.dataset.most === String(most)) return;
  box.dataset.most = most;
  box.querySelectorAll("label").forEach(label => label.remove());
  if (!ranges.includes(shown)) shown = ranges[Math.min(1, ranges.length - 1)];
  for (const range of ranges) {
    const label = make("label"), input = make("input", { type: "radio", name: "range", value: range });
    input.checked = range === shown;
    label.append(input, `${+(range / 60).toFixed(1)} min`);
    box.append(label);
  }
}

// ---- Charts
// Each line is [class, sample => number or null]; a line that hangs is drawn downwards from the middle.
const upTo = (least, base) => top => { let scale = least; while (scale < top) scale *= base; return scale; };
const SIGNS = [
  { name: "CPU", lines: [["a", s => s.cpu?.busy]], scale: () => 1, unit: percent,
    value: s => s.cpu && [["", percent(s.cpu.busy)]], cores: true },
  { name: "Memory", lines: [["a", s => s.memory?.used]], scale: (top, s, seen) => Math.max(1, ...seen.map(s => s.memory?.total ?? 0)), unit: bytes,
    value: s => s.memory && [["", bytes(s.memory.used), "of " + bytes(s.memory.total)]],
    note: s => bytes(s.memory.available) + " available" + (s.memory.swap_total ? ", " + bytes(s.memory.swap_used) + " of " + bytes(s.memory.swap_total) + " swap used" : ", no swap") },
  { name: "Pressure", lines: [["a", s => s.pressure.cpu], ["b", s => s.pressure.memory], ["c", s => s.pressure.io]],
    scale: top => Math.min(1, upTo(.05, 2)(top)), unit: percent, flat: true,
    value: s => Object.values(s.pressure).some(known) && [["a", percent(s.pressure.cpu), "CPU"], ["b", percent(s.pressure.memory), "memory"], ["c", percent(s.pressure.io), "I/O"]],
    note: () => "share of the last 10 s in which some task had to wait" },
  { name: "Load", lines: [["a", s => s.load?.[0]]], scale: (top, s) => upTo(Math.max(1, s.cpu?.cores.length ?? 1), 2)(top), unit: n => String(n),
    value: s => s.load && s.load.map(n => ["", n.toFixed(2)]),
    note: () => "tasks that run or wait, averaged over 1 (drawn), 5 and 15 minutes" },
  { name: "Disk", lines: [["a", s => s.disk?.read], ["b", s => s.disk?.written, true]], scale: upTo(65536, 2), unit: speed,
    value: s => s.disk && [["a", speed(s.disk.read), "read"], ["b", speed(s.disk.written), "written"]] },
  { name: "Network", lines: [["a", s => s.network?.received], ["b", s => s.network?.sent, true]], scale: upTo(16384, 2), unit: speed,
    value: s => s.network && [["a", speed(s.network.received), "in"], ["b", speed(s.network.sent), "out"]] },
  { name: "This service", lines: [["a", s => s.service.cpu]], scale: upTo(.05, 2), unit: n => percent(n) + " of one CPU",
    value: s => (known(s.service.cpu) || known(s.service.memory)) && [["", percent(s.service.cpu), "CPU"], ["", bytes(s.service.memory), "memory"]],
    note: () => "the arbiter and all workers together" },
];

const W = 600, H = 56;

for (const sign of SIGNS) {
  const box = make("div", { class: "sign" });
  const title = make("h3");
  put(title, sign.name);
  sign.box = box;
  sign.label = make("p", { class: "value" });
  const chart = make("div", { class: "chart" });
  const both = sign.lines.some(line => line[2]);
  sign.svg = make("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", class: both ? "both" : "" });
  sign.svg.append(make("line", { x1: 0, x2: W, y1: H, y2: H }), make("line", { x1: 0, x2: W, y1: 0, y2: 0 }));
  if (both) sign.svg.append(make("line", { x1: 0, x2: W, y1: H / 2, y2: H / 2 }));
  sign.paths = sign.lines.map(([kind]) => {
    const [fill, line] = [make("path", { class: "fill " + kind }), make("path", { class: kind })];
    if (!sign.flat) sign.svg.append(fill);
    sign.svg.append(line);
    return [fill, line];
  });
  sign.top = make("span", { class: "scale", "aria-hidden": "true" });
  sign.words = make("p", { class: "note" });
  chart.append(sign.svg, sign.top);
  box.append(title, sign.label, chart);
  if (sign.cores) box.append(sign.bars = make("div", { class: "cores", role: "img" }));
  box.append(sign.words);
  $("signs").append(box);
}

// Not more often than an eye can follow.
function draw() {
  due ??= setTimeout(paint, Math.max(0, drawn + 1000 - performance.now()));
}

function paint() {
  clearTimeout(due);
  due = null;
  drawn = performance.now();
  const newest = samples.at(-1);
  if (!newest) return;
  put($("up"), known(newest.uptime) ? ", up " + span(newest.uptime) : "");
  const seen = samples.slice(samples.findIndex(sample => sample.at >= newest.at - shown - interval));
  const x = moment => W * (1 - (newest.at - moment) / shown);
  for (const sign of SIGNS) {
    const value = sign.value(newest);
    const past = seen.some(sample => sign.lines.some(([, of]) => known(of(sample))));
    sign.box.classList.toggle("hidden-sign", !value && !past);
    write(sign.label, value || [["", past || samples.length < 2 ? dash : "not visible to this process"]]);
    put(sign.words, value && sign.note ? sign.note(newest) : "");
    if (sign.bars) cores(sign.bars, newest.cpu?.cores ?? []);
    const tops = sign.lines.map(([, of]) => Math.max(0, ...seen.map(of).filter(known)));
    const scale = sign.scale(Math.max(...tops), newest, seen);
    put(sign.top, sign.unit(scale));
    sign.svg.setAttribute("aria-label", `${sign.name}, the last ${plural(+(shown / 60).toFixed(1), "minute")}, up to ${sign.unit(scale)}`);
    const half = sign.lines.some(line => line[2]);
    sign.lines.forEach(([, of, hangs], at) => {
      const zero = half ? H / 2 : H;
      const high = (half ? H / 2 : H) * (hangs ? -1 : 1);
      const points = peaks(seen, of).map(([moment, value]) => [moment, known(value) ? zero - high * Math.min(1, value / scale) : null]);
      const [line, area] = trace(points, x, zero);
      sign.paths[at][0].setAttribute("d", area);
      sign.paths[at][1].setAttribute("d", line);
    });
  }
}

// Of more samples than a line has room for, the largest value of each place on it.
function peaks(seen, of) {
  const points = seen.map(sample => [sample.at, of(sample)]);
  if (points.length <= W) return points;
  const [places, width] = [new Map(), shown / W];
  for (const point of points) {
    const place = Math.floor(point[0] / width);
    const highest = places.get(place);
    if (!highest || !known(highest[1]) || point[1] > highest[1]) places.set(place, point);
  }
  return [...places.values()];
}

// A line is broken where nothing was measured: a gap is not a zero.
function trace(points, x, zero) {
  const far = 2.5 * Math.max(interval, shown / W);
  let line = "", area = "", run = [];
  const end = () => {
    if (run.length) {
      const points = run.map(([x, y]) => x.toFixed(1) + " " + y.toFixed(1)).join("L");
      line += "M" + points + (run.length === 1 ? "h.1" : "");
      area += `M${run[0][0].toFixed(1)} ${zero}L${points}L${run.at(-1)[0].toFixed(1)} ${zero}Z`;
    }
    run = [];
  };
  let before = null;
  for (const [moment, y] of points) {
    if (y === null || before !== null && moment - before > far) end();
    if (y !== null) run.push([x(moment), y]);
    before = moment;
  }
  end();
  return [line, area];
}

function write(label, parts) {
  while (label.children.length > parts.length) label.lastChild.remove();
  parts.forEach(([kind, number, word], at) => {
    const part = label.children[at] ?? label.appendChild(make("span"));
    if (!part.firstChild) part.append(make("b"), "");
    put(part.firstChild, number);
    part.firstChild.className = kind;
    const rest = word ? " " + word : "";
    if (part.lastChild.data !== rest) part.lastChild.data = rest;
  });
}

function cores(bars, shares) {
  while (bars.children.length > shares.length) bars.lastChild.remove();
  shares.forEach((share, at) => {
    const bar = bars.children[at] ?? bars.appendChild(make("i"));
    if (!bar.firstChild) bar.append(make("b"));
    bar.classList.toggle("off", !known(share));
    bar.title = `CPU ${at}: ${known(share) ? percent(share) : "offline"}`;
    bar.firstChild.style.transform = `scaleX(${share ?? 0})`;
  });
  bars.setAttribute("aria-label", `${plural(shares.length, "core")}, each one’s busy share`);
}


// Who measures, and how old what is shown is.
function sampled() {
  const last = samples.at(-1);
  const old = last && known(lastSample) ? (performance.now() - lastSample) / 1000 : null;
  const stale = old > 3 * interval + 1;
  const by = sampler && named(sampler.slot, sampler.generation);
  let words = by ? `measured by the payload “sampler” in ${by}` : "no worker runs the sampler at this moment";
  if (!last) words = by ? `no data yet: the sampler is in ${by}` : "no data: no worker runs the sampler";
  else if (stale) words = `no data for ${span(old)}: ` + (by ? `the sampler, in ${by}, is silent` : "no worker runs the sampler");
  put($("sampled"), words);
  $("sampled").classList.toggle("stale", stale);
}
