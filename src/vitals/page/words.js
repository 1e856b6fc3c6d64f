"use strict";
const $ = id => document.getElementById(id);
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const make = (name, attributes = {}) => {
  const isSvg = ["svg", "path", "line"].includes(name);
  const node = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
const known = value => value !== null && value !== undefined;

// ---- Words for numbers
const dash = "–";
const percent = share => !known(share) ? dash : share > 0 && share < .0995 ? (share * 100).toFixed(1) + "%" : Math.round(share * 100) + "%";
const bytes = number => {
  if (!known(number)) return dash;
  let unit = 0;
  while (number >= 1000 && unit < 5) { number /= 1024; unit++; }
  return (unit === 0 || number >= 99.95 ? Math.round(number) : number.toFixed(1)) + " " + ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit];
};
const speed = number => known(number) ? bytes(number) + "/s" : dash;
const count = number => known(number) ? number.toLocaleString("en") : dash;
const rate = number => !known(number) ? dash : (number < 9.95 && number > 0 ? number.toFixed(1) : count(Math.round(number))) + "/s";
const span = seconds => {
  if (!known(seconds)) return dash;
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + s % 60 + " s";
  if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min";
  return Math.floor(s / 86400) + " d " + Math.floor(s % 86400 / 3600) + " h";
};
const brief = seconds => !known(seconds) ? dash : seconds < .0995 ? Math.max(seconds > 0 ? 1 : 0, Math.round(seconds * 1000)) + " ms" : seconds < 60 ? seconds.toFixed(1) + " s" : span(seconds);
// Midnight is 00:00, in every language.
const clock = date => date.toLocaleTimeString([], { hourCycle: "h23" });
const named = (slot, generation) => `worker ${slot}` + (known(generation) ? `, generation ${generation}` : "");
const plural = (number, word) => count(number) + " " + word + (number === 1 ? "" : "s");
