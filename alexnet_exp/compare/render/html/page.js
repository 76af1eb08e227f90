"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const COLOURS = 6;
const DRAWN = 6; // arms drawn at first; more lines than that are not read

// ---- elements: whatever comes from a run becomes text, never markup
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const make = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// ---- numbers
function number(value, percent) {
  if (percent) return (100 * value).toFixed(2) + "%";
  if (Number.isInteger(value)) return Math.abs(value) < 1e7 ? String(value) : value.toExponential(3);
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}
function shown(value, percent) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "number") return number(value, percent);
  if (typeof value === "boolean") return value ? "true" : "false";
  return typeof value === "string" ? value : JSON.stringify(value);
}
// not Math.min(...values): a call takes only so many arguments
const least = (values) => values.reduce((low, value) => Math.min(low, value), Infinity);
const most = (values) => values.reduce((high, value) => Math.max(high, value), -Infinity);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// ---- light and dark
const theme = byId("theme");
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (darkSystem.matches ? "dark" : "light")) === "dark";
function tellTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
  theme.setAttribute("aria-pressed", String(isDark()));
}
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("report-theme", document.documentElement.dataset.theme); } catch { /* a page without storage forgets */ }
  tellTheme();
});
try { const kept = localStorage.getItem("report-theme"); if (kept) document.documentElement.dataset.theme = kept; } catch { /* as above */ }
darkSystem.addEventListener("change", tellTheme);
tellTheme();
if (byId("pictures")) document.querySelector('nav a[href="#pictures"]').parentElement.hidden = false;

// ---- the tip beside the pointer
const tip = byId("tip");
function tell(content, x, y) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
  tip.style.left = Math.max(4, Math.min(left, innerWidth - box.width - 4)) + "px";
  tip.style.top = Math.max(4, Math.min(y - box.height / 2, innerHeight - box.height - 4)) + "px";
}
const hush = () => { tip.hidden = true; };
addEventListener("scroll", hush, { passive: true });

// ---- copying
async function copy(field) {
  try { await navigator.clipboard.writeText(field.value); return true; } catch { /* the older way below */ }
  field.closest("details").open = true;
  field.select();
  try { return document.execCommand("copy"); } catch { return false; }
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const done = await copy(byId(button.dataset.copy));
    byId("copied").textContent = done ? "Copied." : "This browser does not let a page copy; the text is selected.";
  });
}

// ---- all runs
const places = data.runs.map((_, place) => place);
const lookUp = (run, key) => {
  for (const group of ["settings", "results"]) {
    for (const from of [run[group], data.common[group]]) if (Object.hasOwn(from, key)) return from[key];
  }
  return undefined;
};
const keysOf = (run, group) => [...Object.keys(data.common[group]), ...Object.keys(run[group])];
const NAME = { key: "run", title: "Run" };
const STATUS = { key: "status", title: "Status" };
const table = (() => {
  const { columns, rows, runs } = data.table;
  const kept = columns.map((column, place) => ({ ...column, place })).filter((column) => !["run", "name", "status"].includes(column.key));
  const made = rows.map((cells, place) => ({ run: data.runs[runs[place]] ? runs[place] : null, cells: kept.map((column) => cells[column.place]) }));
  return {
    columns: [NAME, STATUS, ...kept],
    rows: made.filter((row) => row.run !== null).map((row, order) => ({
      order, run: row.run, cells: [data.runs[row.run].name, data.runs[row.run].status, ...row.cells],
    })),
  };
})();
const numeric = table.columns.map((_, place) => {
  const cells = table.rows.map((row) => row.cells[place]).filter((cell) => cell !== null && cell !== undefined);
  return cells.length > 0 && cells.every((cell) => typeof cell === "number");
});
for (const row of table.rows) {
  const texts = row.cells.map((cell, place) => shown(cell, table.columns[place].percent));
  row.text = [...texts, data.runs[row.run].error, data.runs[row.run].note].join(" ").toLowerCase();
}
const sorting = { column: null, down: false };
const hiddenStatuses = new Set();

// A setting by its whole key or its last part (lr for optim.lr), a column by its title.
function settingsNamed(run, row, name) {
  const column = table.columns.findIndex((each) => each.key.toLowerCase() === name || each.title.toLowerCase() === name);
  if (column >= 0) return [row.cells[column]];
  const keys = [...keysOf(run, "settings"), ...keysOf(run, "results")];
  const plain = (key) => key.toLowerCase().replace(/ \(option\)$/, "");
  return keys.filter((key) => plain(key) === name || plain(key).split(/[./]/).pop() === name).map((key) => lookUp(run, key));
}
function compares(value, sign, wanted) {
  const left = Number(value), right = Number(wanted);
  const numbers = value !== null && value !== "" && wanted !== "" && Number.isFinite(left) && Number.isFinite(right);
  const equal = numbers ? left === right : shown(value).toLowerCase() === wanted;
  if (sign === "=") return equal;
  if (sign === "!=") return !equal;
  if (!numbers) return false;
  return { "<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right }[sign];
}
function accepts(row, words) {
  const run = data.runs[row.run];
  if (hiddenStatuses.has(run.status)) return false;
  return words.every((word) => {
    const parts = /^([^=<>!]+)(!=|<=|>=|=|<|>)(.*)$/.exec(word);
    if (!parts) return row.text.includes(word);
    const values = settingsNamed(run, row, parts[1]);
    if (!values.length) return row.text.includes(word);
    return parts[2] === "!=" ? values.every((value) => compares(value, "!=", parts[3])) : values.some((value) => compares(value, parts[2], parts[3]));
  });
}
function order(a, b) {
  const { column, down } = sorting;
  if (column === null) return a.order - b.order;
  const [left, right] = [a.cells[column], b.cells[column]];
  const none = (value) => value === null || value === undefined || value === "";
  if (none(left) || none(right)) return none(left) - none(right) || a.order - b.order; // last, whichever way
  const both = typeof left === "number" && typeof right === "number";
  const way = both ? left - right : shown(left).localeCompare(shown(right), "en", { numeric: true });
  return (down ? -way : way) || a.order - b.order;
}
const SIGNS = { done: "✓", failed: "✕", died: "✕", running: "…", interrupted: "‖", pruned: "✂" };
const openRun = (place) => {
  byId("run-a").value = String(place);
  byId("config-differing").checked = false;
  showConfiguration();
  byId("configuration").scrollIntoView();
  byId("configuration-title").focus({ preventScroll: true });
};
function cell(row, place) {
  const run = data.runs[row.run];
  if (place === 0) {
    const link = make("a", { href: "#configuration", onclick: (event) => { event.preventDefault(); openRun(row.run); } }, run.name);
    return make("th", { scope: "row", class: "name" }, link, run.error ? make("span", { class: "error" }, run.error) : null);
  }
  if (place === 1) return make("td", { class: `status ${run.status}` }, make("span", { "aria-hidden": "true" }, (SIGNS[run.status] || "·") + " "), run.status);
  return make("td", { class: numeric[place] ? "number" : null }, shown(row.cells[place], table.columns[place].percent));
}
const body = make("tbody");
for (const row of table.rows) {
  const place = row.run;
  row.node = make("tr", { class: data.runs[place].status === "done" ? null : "not-done" }, ...table.columns.map((_, column) => cell(row, column)));
}
const heads = table.columns.map((column, place) => make("th", { scope: "col", class: numeric[place] ? "number" : null },
  make("button", { type: "button", onclick: () => {
    // numbers are looked at from the greatest
    sorting.down = sorting.column === place ? !sorting.down : numeric[place];
    sorting.column = place;
    showRuns();
  } }, column.title)));
function showRuns() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = table.rows.filter((row) => accepts(row, words)).sort(order);
  body.replaceChildren(...rows.map((row) => row.node));
  if (!rows.length) body.append(make("tr", {}, make("td", { colspan: table.columns.length, class: "empty" }, "No run matches.")));
  heads.forEach((head, place) => {
    if (sorting.column === place) head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  byId("shown").textContent = `${rows.length} of ${table.rows.length} runs`;
}
byId("runs-table").append(make("caption", { hidden: true }, "All runs"), make("thead", {}, make("tr", {}, ...heads)), body);
byId("filter").addEventListener("input", showRuns);
const statuses = [...new Set(data.runs.map((run) => run.status))];
if (statuses.length > 1) {
  for (const status of statuses) {
    const count = data.runs.filter((run) => run.status === status).length;
    byId("statuses").append(make("button", { type: "button", "aria-pressed": "true", "data-status": status, onclick: (event) => {
      const shows = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", String(shows));
      if (shows) hiddenStatuses.delete(status); else hiddenStatuses.add(status);
      showRuns();
    } }, `${SIGNS[status] || "·"} ${status} ${count}`));
  }
}
showRuns();

// ---- axes
function niceTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * power).find((each) => each >= rough);
  const ticks = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place++) ticks.push(Number((place * step).toPrecision(12)));
  return ticks;
}
function logTicks(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const parts = last - first > 2 ? [1] : last - first > 1 ? [1, 3] : [1, 2, 5];
  const every = Math.max(1, Math.ceil((last - first) / 6));
  const ticks = [];
  for (let power = first; power <= last; power += every) for (const part of parts) ticks.push(Number((part * 10 ** power).toPrecision(6)));
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}
function scale(low, high, from, to, isLog) {
  const turn = isLog ? Math.log10 : (value) => value;
  const [a, b] = [turn(low), turn(high)];
  return (value) => from + (to - from) * (b === a ? 0.5 : (turn(value) - a) / (b - a));
}
function padded(values, isLog) {
  const [low, high] = [least(values), most(values)];
  if (isLog) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.05, high * (high / low) ** 0.05];
  const space = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - space, high + space];
}
const tickText = (value, percent, ticks) => {
  if (!percent) return number(value, false);
  const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) * 100 : 1;
  return (100 * value).toFixed(Math.max(0, Math.min(3, Math.ceil(-Math.log10(step) - 1e-9)))) + "%";
};

// ---- learning curves
const arms = data.arms.map((arm, place) => ({ ...arm, colour: `var(--arm-${place % COLOURS})`, dash: DASHES[Math.floor(place / COLOURS) % DASHES.length], drawn: place < DRAWN }));
const lines = data.curves.lines;
const columns = data.curves.columns;
const metricSelect = byId("curve-metric");
columns.forEach((column, place) => metricSelect.append(make("option", { value: place }, column.title)));
const wanted = columns.findIndex((column) => column.key === data.metric.key.replace(/^test\//, "val/"));
metricSelect.value = String(Math.max(0, wanted));
const swatch = (arm) => draw("svg", { width: 22, height: 8, "aria-hidden": "true" }, draw("line", { x1: 1, x2: 21, y1: 4, y2: 4, stroke: arm.colour, "stroke-width": 2.5, "stroke-dasharray": arm.dash || null }));
for (const arm of arms) {
  byId("curve-legend").append(make("button", { type: "button", "aria-pressed": String(arm.drawn), onclick: (event) => {
    arm.drawn = !arm.drawn;
    event.currentTarget.setAttribute("aria-pressed", String(arm.drawn));
    showCurves();
  } }, swatch(arm), arm.label));
}
function seriesOf(run, column, from) {
  if (!lines[run]) return [];
  const values = lines[run].values[column];
  return lines[run].epochs.map((epoch, place) => [epoch, values[place]]).filter((point) => point[0] >= from && point[1] !== null);
}
function folded(arm, column, from) {
  const byEpoch = new Map();
  for (const run of arm.runs) for (const [epoch, value] of seriesOf(run, column, from)) byEpoch.set(epoch, byEpoch.get(epoch) || []).get(epoch).push(value);
  const sorted = [...byEpoch].sort((a, b) => a[0] - b[0]);
  // where a run has ended, or an epoch is only its last, a mean of fewer would jump
  const count = most(sorted.map(([, values]) => values.length));
  return sorted.filter(([, values]) => values.length === count).map(([epoch, values]) => ({ epoch, mean: mean(values), low: least(values), high: most(values), n: values.length }));
}
const path = (points) => points.map(([x, y], place) => `${place ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
let pointed = null; // the epoch that is looked at by keyboard
function showCurves() {
  const plot = byId("curve-plot");
  const column = Number(metricSelect.value);
  const single = byId("curve-single").checked;
  const from = byId("curve-half").checked ? most(lines.map((line) => line ? line.epochs[line.epochs.length - 1] : 0)) / 2 : -Infinity;
  const drawn = arms.filter((arm) => arm.drawn).map((arm) => ({
    ...arm, points: folded(arm, column, from), singles: single ? [...arm.runs, ...arm.uncounted].map((run) => ({ run, points: seriesOf(run, column, from) })) : [],
  })).filter((arm) => arm.points.length || arm.singles.some((each) => each.points.length));
  const all = drawn.flatMap((arm) => [...arm.points.flatMap((point) => [point.low, point.high]), ...arm.singles.flatMap((each) => each.points.map((point) => point[1]))]);
  if (!columns.length || !all.length) {
    const why = columns.length ? "No chosen arm has this metric by epoch." : "No run recorded its epochs.";
    plot.replaceChildren(make("p", { class: "empty" }, why));
    return;
  }
  const percent = columns[column].percent;
  const canLog = least(all) > 0;
  byId("curve-log").disabled = !canLog;
  const isLog = byId("curve-log").checked && canLog;
  const width = Math.max(280, plot.clientWidth), height = Math.round(Math.min(420, Math.max(260, width * 0.45)));
  const edge = { left: 54, right: 14, top: 26, bottom: 38 };
  const epochs = drawn.flatMap((arm) => [...arm.points.map((point) => point.epoch), ...arm.singles.flatMap((each) => each.points.map((point) => point[0]))]);
  const [first, last] = [least(epochs), most(epochs)];
  const [low, high] = padded(all, isLog);
  const x = scale(first, last, edge.left, width - edge.right, false), y = scale(low, high, height - edge.bottom, edge.top, isLog);
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "img", "aria-label": `${columns[column].title} by epoch; arrow keys read the values` });
  const yTicks = isLog ? logTicks(low, high) : niceTicks(low, high, 5);
  for (const tick of yTicks) svg.append(draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(tick), y2: y(tick) }), draw("text", { x: edge.left - 8, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick, percent, yTicks)));
  const xTicks = last > first ? niceTicks(first, last, Math.max(2, Math.floor(width / 110))).filter(Number.isInteger) : [first];
  for (const tick of xTicks) svg.append(draw("text", { x: x(tick), y: height - edge.bottom + 18, "text-anchor": "middle" }, String(tick)));
  svg.append(draw("line", { class: "axis", x1: edge.left, x2: width - edge.right, y1: height - edge.bottom, y2: height - edge.bottom }),
    draw("text", { class: "title", x: 0, y: 14 }, columns[column].title), draw("text", { x: width - edge.right, y: height - 4, "text-anchor": "end" }, "epoch"));
  for (const arm of drawn) {
    const at = (value) => arm.points.map((point) => [x(point.epoch), y(point[value])]);
    if (arm.points.some((point) => point.n > 1)) svg.append(draw("path", { class: "band", d: path(at("high")) + path(at("low").reverse()).replace("M", "L") + "Z", fill: arm.colour }));
  }
  for (const arm of drawn) {
    for (const { run, points } of arm.singles) svg.append(draw("path", { class: data.runs[run].status === "done" ? "single" : "single unfinished", d: path(points.map(([epoch, value]) => [x(epoch), y(value)])), stroke: arm.colour }));
    svg.append(draw("path", { class: "mean", d: path(arm.points.map((point) => [x(point.epoch), y(point.mean)])), stroke: arm.colour, "stroke-dasharray": arm.dash || null }));
    // an epoch by itself is no line
    if (arm.points.length === 1) svg.append(draw("circle", { cx: x(arm.points[0].epoch), cy: y(arm.points[0].mean), r: 3.5, fill: arm.colour }));
  }
  const cursor = draw("g", { visibility: "hidden" });
  svg.append(cursor);
  const known = [...new Set(drawn.flatMap((arm) => arm.points.map((point) => point.epoch)))].sort((a, b) => a - b);
  const read = (epoch, clientX, clientY) => {
    if (epoch === undefined) return;
    const there = drawn.map((arm) => ({ arm, point: arm.points.find((point) => point.epoch === epoch) })).filter((each) => each.point).sort((a, b) => b.point.mean - a.point.mean);
    cursor.replaceChildren(draw("line", { class: "rule", x1: x(epoch), x2: x(epoch), y1: edge.top, y2: height - edge.bottom }),
      ...there.map(({ arm, point }) => draw("circle", { cx: x(epoch), cy: y(point.mean), r: 3.5, fill: arm.colour })));
    cursor.setAttribute("visibility", "visible");
    tell([make("strong", {}, `epoch ${epoch}`), make("table", {}, ...there.map(({ arm, point }) => make("tr", {},
      make("td", {}, swatch(arm)), make("td", {}, arm.label), make("td", { class: "number" }, number(point.mean, percent)),
      make("td", { class: "number quiet" }, point.n > 1 ? `${number(point.low, percent)} to ${number(point.high, percent)}` : "1 run"))))], clientX, clientY);
    svg.setAttribute("aria-label", `${columns[column].title}, epoch ${epoch}: ` + there.map(({ arm, point }) => `${arm.label} ${number(point.mean, percent)}`).join(", "));
  };
  const leave = () => { cursor.setAttribute("visibility", "hidden"); hush(); };
  svg.addEventListener("pointermove", (event) => {
    const at = (event.clientX - svg.getBoundingClientRect().left) * width / svg.getBoundingClientRect().width;
    pointed = known.reduce((best, epoch) => Math.abs(x(epoch) - at) < Math.abs(x(best) - at) ? epoch : best, known[0]);
    read(pointed, event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") leave();
    if (move === undefined) return;
    event.preventDefault();
    const now = (known.includes(pointed) ? known.indexOf(pointed) : move > 0 ? -1 : known.length) + move;
    pointed = known[Math.max(0, Math.min(known.length - 1, now))];
    const box = svg.getBoundingClientRect();
    read(pointed, box.left + x(pointed), box.top + box.height / 3);
  });
  plot.replaceChildren(svg);
}
for (const id of ["curve-metric", "curve-single", "curve-half", "curve-log"]) byId(id).addEventListener("change", showCurves);

// ---- what was varied
const done = places.filter((place) => typeof data.runs[place].value === "number");
const pointsOf = ({ values }) => done.filter((place) => values[place] !== null && values[place] !== undefined).map((place) => ({ place, at: values[place], value: data.runs[place].value }));
function mark(place) {
  for (const dot of document.querySelectorAll(".dot")) dot.classList.toggle("marked", place !== null && dot.dataset.run === String(place));
}
function panel(setting) {
  const points = pointsOf(setting);
  const distinct = [...new Set(points.map((point) => shown(point.at)))];
  if (distinct.length < 2) return null;
  const isNumber = points.every((point) => typeof point.at === "number");
  const wide = !isNumber && distinct.length > 5;
  const box = make("div", { class: wide ? "wide" : null }, make("h3", {}, setting.key));
  box.draw = () => {
    const width = Math.max(240, box.clientWidth), height = 210;
    const percent = data.metric.percent;
    const edge = { left: 54, right: 12, top: 8, bottom: 40 };
    const [low, high] = padded(done.map((place) => data.runs[place].value), false);
    const y = scale(low, high, height - edge.bottom, edge.top, false);
    const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${data.metric.label} against ${setting.key}, one dot a run` });
    const yTicks = niceTicks(low, high, 4);
    for (const tick of yTicks) svg.append(draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(tick), y2: y(tick) }), draw("text", { x: edge.left - 8, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick, percent, yTicks)));
    svg.append(draw("line", { class: "axis", x1: edge.left, x2: width - edge.right, y1: height - edge.bottom, y2: height - edge.bottom }));
    let x;
    const means = []; // where, how wide to each side, and of which points
    if (isNumber) {
      const values = points.map((point) => point.at);
      const isLog = least(values) > 0 && most(values) / least(values) > 9.99;
      const [from, to] = padded(values, isLog);
      x = scale(from, to, edge.left + 6, width - edge.right - 6, isLog);
      // few values are named themselves, many by round numbers
      const own = [...new Set(values)].sort((a, b) => a - b);
      let ticks = own.length <= 6 ? own : isLog ? logTicks(from, to) : niceTicks(from, to, 4);
      ticks = ticks.filter((tick, place) => place === 0 || x(tick) - x(ticks[place - 1]) > 34);
      for (const tick of ticks) svg.append(draw("text", { x: x(tick), y: height - edge.bottom + 18, "text-anchor": "middle" }, number(tick, false)));
      if (own.length <= 6) for (const value of own) means.push([x(value), 10, points.filter((point) => point.at === value)]);
      if (isLog) box.querySelector("h3").replaceChildren(setting.key, make("span", { class: "quiet" }, " logarithmic"));
    } else {
      distinct.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      const slot = (width - edge.left - edge.right) / distinct.length;
      const centre = (text) => edge.left + slot * (distinct.indexOf(text) + 0.5);
      const fits = Math.max(2, Math.floor(slot / 7.5));
      for (const text of distinct) {
        const label = text.length > fits ? text.slice(0, fits - 1) + "…" : text;
        const here = points.filter((point) => shown(point.at) === text);
        means.push([centre(text), Math.min(22, slot * 0.36), here]);
        const told = number(mean(here.map((point) => point.value)), percent);
        svg.append(draw("text", { x: centre(text), y: height - edge.bottom + 18, "text-anchor": "middle" }, label, draw("title", {}, text)),
          draw("text", { x: centre(text), y: height - edge.bottom + 34, "text-anchor": "middle" }, slot > 96 ? `mean ${told}` : slot > 56 ? told : ""));
      }
      const among = new Map();
      x = (at, point) => {
        const text = shown(at);
        const nth = among.get(text) || 0;
        among.set(text, nth + 1);
        // spread by place, not by chance: the same report looks the same twice
        return centre(text) + (((nth * 0.618) % 1) - 0.5) * Math.min(28, slot * 0.5) * (point ? 1 : 0);
      };
    }
    for (const point of points) {
      const run = data.runs[point.place];
      svg.append(draw("circle", { class: "dot", "data-run": point.place, cx: x(point.at, point), cy: y(point.value), r: points.length > 80 ? 3 : 4,
        onpointerenter: (event) => { mark(point.place); tell([make("strong", {}, run.name), `${setting.key} ${shown(point.at)}: ${number(point.value, percent)}`], event.clientX, event.clientY); },
        onpointerleave: () => { mark(null); hush(); }, onclick: () => openRun(point.place) }));
    }
    for (const [at, half, here] of means) {
      if (here.length < 2) continue;
      const height = y(mean(here.map((point) => point.value)));
      const ends = { x1: at - half, x2: at + half, y1: height, y2: height };
      svg.append(draw("line", { class: "halo", ...ends }), draw("line", { class: "category", ...ends }));
    }
    box.querySelector("svg")?.remove();
    box.append(svg);
  };
  return box;
}
const panels = data.varying.map(panel).filter(Boolean);
byId("settings-plots").append(...panels);
byId("settings-help").textContent = panels.length
  ? `${data.metric.label.replace(/^./, (first) => first.toUpperCase())} of every finished run against each setting that differs. A bar is the mean of a value's runs, whatever else differs between them; point at a dot to find its run in every picture.`
  : "No setting but the seed differs between the finished runs.";

// ---- configuration
const [runA, runB] = [byId("run-a"), byId("run-b")];
runB.append(make("option", { value: "" }, "no other"));
for (const select of [runA, runB]) data.runs.forEach((run, place) => select.append(make("option", { value: place }, run.status === "done" ? run.name : `${run.name} (${run.status})`)));
const firsts = arms.map((arm) => arm.runs[0]).filter((run) => run !== undefined);
if (firsts.length) runA.value = String(firsts[0]);
if (firsts.length > 1) runB.value = String(firsts[firsts.length - 1]);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
function showConfiguration() {
  const a = data.runs[Number(runA.value)];
  const b = runB.value === "" ? null : data.runs[Number(runB.value)];
  const notes = byId("run-notes");
  notes.replaceChildren();
  byId("config-differing").disabled = !b;
  if (!a) return;
  for (const run of new Set([a, b])) if (run && (run.note || run.error)) notes.append(make("p", {}, `${run.name}: ${[run.error, run.note].filter(Boolean).join("\n")}`));
  const words = byId("config-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const onlyDiffering = Boolean(b) && byId("config-differing").checked;
  const rows = [];
  let count = 0, differing = 0;
  for (const [group, title] of [["settings", "Settings"], ["results", "What came of it, and where it ran"]]) {
    const keys = [...new Set([...keysOf(a, group), ...(b ? keysOf(b, group) : [])])].sort((left, right) => left.localeCompare(right, "en"));
    const made = keys.flatMap((key) => {
      const [left, right] = [lookUp(a, key), b ? lookUp(b, key) : undefined];
      const differs = Boolean(b) && !same(left, right);
      const text = `${key} ${shown(left)} ${b ? shown(right) : ""}`.toLowerCase();
      if (differs && group === "settings") differing++;
      if ((onlyDiffering && !differs) || !words.every((word) => text.includes(word))) return [];
      count++;
      return [make("tr", { class: differs ? "differs" : null }, make("th", { scope: "row" }, key, " ", differs ? make("span", { class: "tag" }, "differs") : null),
        make("td", {}, left === undefined ? "not set" : exact(left)), b ? make("td", {}, right === undefined ? "not set" : exact(right)) : null)];
    });
    if (made.length) rows.push(make("tr", { class: "group" }, make("th", { colspan: b ? 3 : 2, scope: "colgroup" }, title)), ...made);
  }
  if (!rows.length) rows.push(make("tr", {}, make("td", { class: "empty", colspan: b ? 3 : 2 }, "Nothing matches.")));
  byId("config-table").replaceChildren(make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Key"), make("th", { scope: "col" }, a.name), b ? make("th", { scope: "col" }, b.name) : null)), make("tbody", {}, ...rows));
  byId("config-shown").textContent = `${count} shown` + (b ? `; ${differing} ${differing === 1 ? "setting differs" : "settings differ"}` : "");
}
const exact = (value) => value === null ? "null" : typeof value === "string" ? value : JSON.stringify(value);
for (const [id, event] of [["run-a", "change"], ["run-b", "change"], ["config-filter", "input"], ["config-differing", "change"]]) byId(id).addEventListener(event, showConfiguration);
showConfiguration();

// ---- pictures
const zoomed = byId("zoomed");
for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => {
    const [from, to] = [button.querySelector("img"), zoomed.querySelector("img")];
    to.src = from.src;
    to.alt = from.alt;
    zoomed.showModal();
  });
}
zoomed.addEventListener("click", (event) => { if (event.target === zoomed) zoomed.close(); });

// ---- drawn for the width there is
let drawnFor = 0;
function redraw() {
  const width = document.documentElement.clientWidth;
  if (width === drawnFor) return;
  drawnFor = width;
  showCurves();
  for (const each of panels) each.draw();
}
addEventListener("resize", redraw);
redraw();
})();
