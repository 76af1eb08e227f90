// A plot for each setting that varies: the metric of every finished run against the setting's value.
const SETTING_HEIGHT = 210;
const SETTING_EDGES = { left: 54, right: 12, top: 8, bottom: 40 };
const NAMED_VALUES = 6; // up to so many numbers are ticks of their own
const NARROW_CATEGORIES = 5; // a plot with more of them takes the page's width
const MANY_POINTS = 80; // dots are smaller above
const finished = indexes.filter((index) => typeof data.runs[index].value === "number");

function highlightRun(index) {
  for (const dot of document.querySelectorAll(".dot")) {
    dot.classList.toggle("marked", index !== null && dot.dataset.run === String(index));
  }
}

const meanOf = (points) => mean(points.map((point) => point.value));

// Each axis draws its labels, and returns where a point is and which means are marked: { at, half, points }, in pixels.
function numberAxis(plot, frame, points, addLogMark) {
  const values = points.map((point) => point.setting);
  const isLog = minimum(values) > 0 && maximum(values) / minimum(values) > 9.99;
  const range = paddedRange(values, isLog);
  const x = scale(...range, frame.edges.left + 6, rightEdge(frame) - 6, isLog);
  const distinct = [...new Set(values)].sort((a, b) => a - b);
  const isNamed = distinct.length <= NAMED_VALUES;
  const ticks = isNamed ? distinct : isLog ? logTicks(...range) : linearTicks(...range, 4);
  ticks
    .filter((tick, index) => index === 0 || x(tick) - x(ticks[index - 1]) > 34)
    .forEach((tick) => plot.append(xLabel(frame, x(tick), 0, formatNumber(tick, false))));
  if (isLog) addLogMark();
  const means = (isNamed ? distinct : []).map((value) => ({
    at: x(value),
    half: 10,
    points: points.filter((point) => point.setting === value),
  }));
  return { x: (point) => x(point.setting), means };
}

function categoryAxis(plot, frame, points, categories) {
  const slot = (rightEdge(frame) - frame.edges.left) / categories.length;
  const centre = (text) => frame.edges.left + slot * (categories.indexOf(text) + 0.5);
  const characters = Math.max(2, Math.floor(slot / 7.5));
  const means = categories.map((text) => {
    const members = points.filter((point) => formatValue(point.setting) === text);
    const label = text.length > characters ? text.slice(0, characters - 1) + "…" : text;
    const value = formatNumber(meanOf(members), data.metric.percent);
    plot.append(
      xLabel(frame, centre(text), 0, label, svg("title", {}, text)),
      xLabel(frame, centre(text), 1, slot > 96 ? `mean ${value}` : slot > 56 ? value : ""),
    );
    return { at: centre(text), half: Math.min(22, slot * 0.36), points: members };
  });
  const counts = new Map();
  // Dots of a category are spread by their order, not at random, so that the same report looks the same twice.
  const x = (point) => {
    const text = formatValue(point.setting);
    const nth = counts.get(text) || 0;
    counts.set(text, nth + 1);
    return centre(text) + (((nth * 0.618) % 1) - 0.5) * Math.min(28, slot * 0.5);
  };
  return { x, means };
}

function settingDot(point, setting, cx, cy, r) {
  const run = data.runs[point.run];
  const text = `${setting.key} ${formatValue(point.setting)}: ${formatNumber(point.value, data.metric.percent)}`;
  const onpointerenter = (event) => {
    highlightRun(point.run);
    showTooltip([html("strong", {}, run.name), text], event.clientX, event.clientY);
  };
  const onpointerleave = () => {
    highlightRun(null);
    hideTooltip();
  };
  const listeners = { onpointerenter, onpointerleave, onclick: () => openRun(point.run) };
  return svg("circle", { class: "dot", "data-run": point.run, cx, cy, r, ...listeners });
}

function drawMean(plot, { at, half, points }, y) {
  if (points.length < 2) return;
  const height = y(meanOf(points));
  const ends = { x1: at - half, x2: at + half, y1: height, y2: height };
  plot.append(svg("line", { class: "halo", ...ends }), svg("line", { class: "category", ...ends }));
}

function settingPlot(setting, points, categories, box) {
  const frame = { width: Math.max(240, box.clientWidth), height: SETTING_HEIGHT, edges: SETTING_EDGES };
  const range = paddedRange(
    finished.map((index) => data.runs[index].value),
    false,
  );
  const y = scale(...range, bottomEdge(frame), frame.edges.top, false);
  const plot = plotElement(frame, { "aria-label": `${data.metric.label} against ${setting.key}, one dot per run` });
  drawYTicks(plot, frame, linearTicks(...range, 4), y, data.metric.percent);
  drawXAxis(plot, frame);
  const addLogMark = () =>
    box.querySelector("h3").replaceChildren(setting.key, html("span", { class: "quiet" }, " log scale"));
  const { x, means } = categories
    ? categoryAxis(plot, frame, points, categories)
    : numberAxis(plot, frame, points, addLogMark);
  const radius = points.length > MANY_POINTS ? 3 : 4;
  for (const point of points) plot.append(settingDot(point, setting, x(point), y(point.value), radius));
  for (const each of means) drawMean(plot, each, y);
  return plot;
}

// The setting's panel with a function that draws it for the current width; null if the finished runs share one value.
function settingPanel(setting) {
  const points = finished
    .map((run) => ({ run, setting: setting.values[run], value: data.runs[run].value }))
    .filter((point) => point.setting !== null && point.setting !== undefined);
  const distinct = [...new Set(points.map((point) => formatValue(point.setting)))];
  if (distinct.length < 2) return null;
  const isNumber = points.every((point) => typeof point.setting === "number");
  const categories = isNumber ? null : distinct.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const isWide = !isNumber && distinct.length > NARROW_CATEGORIES;
  const box = html("div", { class: isWide ? "wide" : null }, html("h3", {}, setting.key));
  const redraw = () => {
    const plot = settingPlot(setting, points, categories, box);
    box.querySelector("svg")?.remove();
    box.append(plot);
  };
  return { box, redraw };
}

const settingPanels = data.varying.map(settingPanel).filter(Boolean);
byId("settings-plots").append(...settingPanels.map((panel) => panel.box));
const metricTitle = data.metric.label.replace(/^./, (first) => first.toUpperCase());
byId("settings-help").textContent = settingPanels.length
  ? `${metricTitle} of every finished run, against each setting that varies. ` +
    "A bar is the mean of all runs with the same value, even if their other settings differ. " +
    "Point at a dot to highlight its run in every plot; select it to see its configuration."
  : "Only the seed varies between the finished runs.";
