// How things are drawn and told: elements, numbers, times, small plots. Text goes in as text nodes alone, so nothing that was ingested is ever markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "polyline", "path", "line", "rect", "circle"]);

export function h(tag, attributes, ...children) {
  const made = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    made.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return made;
}

// What is on the page becomes what it should be, node by node: focus, scrolling, selections and what was opened stay as they are.
export function show(target, ...children) {
  const wanted = document.createElement("div");
  wanted.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  patchChildren(target, wanted);
}

const keyOf = (node) => (node.nodeType === 1 ? node.getAttribute("data-key") : null);

function patchChildren(from, to) {
  const after = [...to.childNodes];
  const wanted = new Set(after.map(keyOf));
  const held = new Map();
  for (const node of [...from.childNodes]) {
    const key = keyOf(node);
    if (key === null) continue;
    if (wanted.has(key) && !held.has(key)) held.set(key, node);
    else node.remove();
  }
  // What has a key stays the same node wherever others come before it; what has none is taken in its order.
  let at = from.firstChild;
  for (const node of after) {
    const key = keyOf(node);
    const old = key === null ? at : held.get(key);
    if (!old || keyOf(old) !== key || old.nodeName !== node.nodeName) {
      if (key === null && at && keyOf(at) === null) {
        const next = at.nextSibling;
        at.replaceWith(node);
        at = next;
      } else from.insertBefore(node, at);
      continue;
    }
    if (old === at) at = at.nextSibling;
    else from.insertBefore(old, at);
    patch(old, node);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function patch(from, to) {
  if (from.nodeType !== 1) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
  for (const { name, value } of [...to.attributes]) if (name !== "open" && from.getAttribute(name) !== value) from.setAttribute(name, value);
  patchChildren(from, to);
}

// Numbers and times ---------------------------------------------------------------------------------------------------------------

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const whole = (n) => (n === null || n === undefined ? "–" : WHOLE.format(n));

export function short(n) {
  if (n === null || n === undefined) return "–";
  const size = Math.abs(n);
  if (size >= 1e9) return `${(n / 1e9).toFixed(1)} G`;
  if (size >= 1e7) return `${(n / 1e6).toFixed(1)} M`;
  return WHOLE.format(n);
}

export function rate(n) {
  if (n === null || n === undefined) return "–";
  return n !== 0 && n < 10 ? `${n.toFixed(1)}/s` : `${WHOLE.format(n)}/s`;
}

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) [n, i] = [n / 1000, i + 1];
  return `${i && n < 100 ? n.toFixed(1) : WHOLE.format(n)} ${units[i]}`;
}

export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  const s = Math.max(0, ms) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${WHOLE.format(s / 86400)} d`;
}

export function moment(ms, seconds = true) {
  if (ms === null || ms === undefined) return "–";
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) return String(ms);
  return at.toISOString().slice(0, seconds ? 19 : 16).replace("T", " ");
}

export const time = (ms, seconds) =>
  ms === null || ms === undefined ? "–" : h("time", { datetime: moment(ms).replace(" ", "T") + "Z" }, moment(ms, seconds));

export const ago = (ms, now) => (ms === null || ms === undefined ? "–" : `${span(now - ms)} ago`);

export const share = (x, digits = 1) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(digits)} %`);

export const plural = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;

// Parts of a page -----------------------------------------------------------------------------------------------------------------

// Words of the server's, in which what can be typed stands between backticks.
export const words = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));

export const badge = (level, text) => h("span", { class: `badge ${level}` }, text);

export const note = (...text) => h("p", { class: "note" }, ...text);

// columns: [heading, class]; rows: cells, the first of which heads its row. A table that is too wide scrolls by itself, by keyboard too.
export function table(caption, columns, rows, { tall = false, shown = false } = {}) {
  const cell = (content, i, tag) => h(tag, { class: columns[i][1], scope: tag === "th" ? "row" : null }, content);
  return h(
    "div",
    { class: tall ? "table tall" : "table", role: "region", "aria-label": caption, tabindex: "0" },
    h(
      "table",
      {},
      h("caption", { class: shown ? null : "hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((content, i) => cell(content, i, i ? "td" : "th"))))),
    ),
  );
}

export const facts = (pairs) =>
  h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value))));

// Points (x ascending) as a line over a box that is stretched; what lies behind nothing is a gap.
export function sparkline(points) {
  const known = points.filter(([, y]) => y !== null && y !== undefined);
  const svg = { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" };
  if (known.length < 2) return h("svg", svg);
  const [first, last] = [points[0][0], points[points.length - 1][0]];
  const top = Math.max(...known.map(([, y]) => y), 1e-9);
  const at = ([x, y]) => `${((100 * (x - first)) / Math.max(1, last - first)).toFixed(2)},${(19 - (18 * y) / top).toFixed(2)}`;
  const line = known.map(at).join(" ");
  const [begin, end] = [line.split(",")[0], at(known[known.length - 1]).split(",")[0]];
  return h("svg", svg, h("path", { class: "under", d: `M${begin},20 L${line.replaceAll(" ", " L")} L${end},20 Z` }), h("polyline", { points: line }));
}

// When things happened, as ticks over [begin, end].
export function ticks(times, begin, end) {
  const x = (t) => (end > begin ? (99 * (t - begin)) / (end - begin) + 0.5 : 50).toFixed(2);
  return h(
    "svg",
    { class: "ticks", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" },
    times.map((t) => h("line", { x1: x(t), x2: x(t), y1: 1, y2: 9 })),
  );
}

export const look = (kind, id) =>
  h("button", { type: "button", class: "link", "data-look": kind, "data-id": id, title: `look up ${kind} ${id}` }, id);
