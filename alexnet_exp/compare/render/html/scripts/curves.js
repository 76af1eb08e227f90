// Learning curves: the mean over the seeds of an arm, its range, and individual runs on demand.
const COLOUR_COUNT = 6;
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const FIRST_ARMS = 6; // arms shown at first: more lines than that are hard to read
const CURVE_EDGES = { left: 54, right: 14, top: 26, bottom: 38 };
const ARROWS = { ArrowRight: 1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity };
const { lines: curveLines, columns: curveColumns } = data.curves;
const metricSelect = byId("curve-metric");
const arms = data.arms.map((arm, index) => ({
  ...arm,
  colour: `var(--arm-${index % COLOUR_COUNT})`,
  dash: DASHES[Math.floor(index / COLOUR_COUNT) % DASHES.length],
  isShown: index < FIRST_ARMS,
}));
let cursorEpoch = null;

function swatch(arm) {
  const line = { x1: 1, x2: 21, y1: 4, y2: 4, "stroke-width": 2.5, "stroke-dasharray": arm.dash || null };
  return svg("svg", { width: 22, height: 8, "aria-hidden": "true" }, svg("line", { ...line, stroke: arm.colour }));
}

function addLegend() {
  for (const arm of arms) {
    const onclick = (event) => {
      arm.isShown = !arm.isShown;
      event.currentTarget.setAttribute("aria-pressed", String(arm.isShown));
      showCurves();
    };
    const attributes = { type: "button", "aria-pressed": String(arm.isShown), onclick };
    byId("curve-legend").append(html("button", attributes, swatch(arm), arm.label));
  }
}

// [epoch, value] of a run, from `firstEpoch` on.
function pointsOfRun(run, column, firstEpoch) {
  if (!curveLines[run]) return [];
  const values = curveLines[run].values[column];
  return curveLines[run].epochs
    .map((epoch, index) => [epoch, values[index]])
    .filter(([epoch, value]) => epoch >= firstEpoch && value !== null);
}

function pointsOfArm(arm, column, firstEpoch) {
  const byEpoch = new Map();
  for (const run of arm.runs) {
    for (const [epoch, value] of pointsOfRun(run, column, firstEpoch)) {
      if (!byEpoch.has(epoch)) byEpoch.set(epoch, []);
      byEpoch.get(epoch).push(value);
    }
  }
  const sorted = [...byEpoch].sort((a, b) => a[0] - b[0]);
  // The mean would jump at epochs that only some of the runs have.
  const count = maximum(sorted.map(([, values]) => values.length));
  return sorted
    .filter(([, values]) => values.length === count)
    .map(([epoch, values]) => ({
      epoch,
      mean: mean(values),
      low: minimum(values),
      high: maximum(values),
      n: values.length,
    }));
}

function shownArms(column) {
  const lastEpoch = maximum(curveLines.map((line) => (line ? line.epochs[line.epochs.length - 1] : 0)));
  const firstEpoch = byId("curve-half").checked ? lastEpoch / 2 : -Infinity;
  const showRunsToo = byId("curve-single").checked;
  return arms
    .filter((arm) => arm.isShown)
    .map((arm) => ({
      ...arm,
      points: pointsOfArm(arm, column, firstEpoch),
      singles: (showRunsToo ? [...arm.runs, ...arm.uncounted] : []).map((run) => ({
        run,
        points: pointsOfRun(run, column, firstEpoch),
      })),
    }))
    .filter((arm) => arm.points.length || arm.singles.some((single) => single.points.length));
}

const pathOf = (points) =>
  points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function drawCurveAxes(plot, frame, x, y, { column, epochs, values, isLog }) {
  const yTicks = isLog ? logTicks(...values) : linearTicks(...values, 5);
  drawYTicks(plot, frame, yTicks, y, column.percent);
  const [first, last] = epochs;
  const count = Math.max(2, Math.floor(frame.width / 110));
  const xTicks = last > first ? linearTicks(first, last, count).filter(Number.isInteger) : [first];
  for (const tick of xTicks) plot.append(xLabel(frame, x(tick), 0, String(tick)));
  drawXAxis(plot, frame);
  plot.append(
    svg("text", { class: "title", x: 0, y: 14 }, column.title),
    svg("text", { x: rightEdge(frame), y: frame.height - 4, "text-anchor": "end" }, "epoch"),
  );
}

function drawBand(plot, arm, x, y) {
  if (!arm.points.some((point) => point.n > 1)) return;
  const edge = (key) => arm.points.map((point) => [x(point.epoch), y(point[key])]);
  const outline = pathOf(edge("high")) + pathOf(edge("low").reverse()).replace("M", "L") + "Z";
  plot.append(svg("path", { class: "band", d: outline, fill: arm.colour }));
}

function drawLines(plot, arm, x, y) {
  for (const { run, points } of arm.singles) {
    const style = data.runs[run].status === "done" ? "single" : "single unfinished";
    const d = pathOf(points.map(([epoch, value]) => [x(epoch), y(value)]));
    plot.append(svg("path", { class: style, d, stroke: arm.colour }));
  }
  const d = pathOf(arm.points.map((point) => [x(point.epoch), y(point.mean)]));
  plot.append(svg("path", { class: "mean", d, stroke: arm.colour, "stroke-dasharray": arm.dash || null }));
  // A line of one point is invisible.
  if (arm.points.length === 1) drawPoint(plot, arm, arm.points[0], x, y);
}

function drawPoint(parent, arm, point, x, y) {
  parent.append(svg("circle", { cx: x(point.epoch), cy: y(point.mean), r: 3.5, fill: arm.colour }));
}

function tooltipRow({ arm, point }, percent) {
  const range = `${formatNumber(point.low, percent)} to ${formatNumber(point.high, percent)}`;
  return html(
    "tr",
    {},
    html("td", {}, swatch(arm)),
    html("td", {}, arm.label),
    html("td", { class: "number" }, formatNumber(point.mean, percent)),
    html("td", { class: "number quiet" }, point.n > 1 ? range : "1 run"),
  );
}

// Shows the values of an epoch at the pointer, or after an arrow key.
function addCursor(plot, frame, shown, x, y, column) {
  const cursor = svg("g", { visibility: "hidden" });
  plot.append(cursor);
  const epochs = [...new Set(shown.flatMap((arm) => arm.points.map((point) => point.epoch)))].sort((a, b) => a - b);

  function read(epoch, clientX, clientY) {
    if (epoch === undefined) return;
    const found = shown
      .map((arm) => ({ arm, point: arm.points.find((point) => point.epoch === epoch) }))
      .filter(({ point }) => point)
      .sort((a, b) => b.point.mean - a.point.mean);
    const rule = { x1: x(epoch), x2: x(epoch), y1: frame.edges.top, y2: bottomEdge(frame) };
    cursor.replaceChildren(svg("line", { class: "rule", ...rule }));
    for (const { arm, point } of found) drawPoint(cursor, arm, point, x, y);
    cursor.setAttribute("visibility", "visible");
    const rows = found.map((each) => tooltipRow(each, column.percent));
    showTooltip([html("strong", {}, `epoch ${epoch}`), html("table", {}, ...rows)], clientX, clientY);
    const values = found.map(({ arm, point }) => `${arm.label} ${formatNumber(point.mean, column.percent)}`);
    plot.setAttribute("aria-label", `${column.title}, epoch ${epoch}: ${values.join(", ")}`);
  }

  function leave() {
    cursor.setAttribute("visibility", "hidden");
    hideTooltip();
  }

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const at = ((event.clientX - box.left) * frame.width) / box.width;
    const nearer = (best, epoch) => (Math.abs(x(epoch) - at) < Math.abs(x(best) - at) ? epoch : best);
    cursorEpoch = epochs.reduce(nearer, epochs[0]);
    read(cursorEpoch, event.clientX, event.clientY);
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const move = ARROWS[event.key];
    if (event.key === "Escape") leave();
    if (move === undefined) return;
    event.preventDefault();
    const start = move > 0 ? -1 : epochs.length;
    const target = (epochs.includes(cursorEpoch) ? epochs.indexOf(cursorEpoch) : start) + move;
    cursorEpoch = epochs[Math.max(0, Math.min(epochs.length - 1, target))];
    const box = plot.getBoundingClientRect();
    read(cursorEpoch, box.left + x(cursorEpoch), box.top + box.height / 3);
  });
}

function showCurves() {
  const container = byId("curve-plot");
  const column = curveColumns[metricSelect.value];
  const shown = shownArms(Number(metricSelect.value));
  const singlePoints = shown.flatMap((arm) => arm.singles.flatMap((single) => single.points));
  const values = [
    ...shown.flatMap((arm) => arm.points.flatMap((point) => [point.low, point.high])),
    ...singlePoints.map(([, value]) => value),
  ];
  if (!column || !values.length) {
    const reason = column ? "No selected arm has per-epoch values of this metric." : "No run has per-epoch metrics.";
    container.replaceChildren(html("p", { class: "empty" }, reason));
    return;
  }
  const canLog = minimum(values) > 0;
  byId("curve-log").disabled = !canLog;
  const isLog = byId("curve-log").checked && canLog;
  const width = Math.max(280, container.clientWidth);
  const frame = { width, height: Math.round(Math.min(420, Math.max(260, width * 0.45))), edges: CURVE_EDGES };
  const allEpochs = [
    ...shown.flatMap((arm) => arm.points.map((point) => point.epoch)),
    ...singlePoints.map(([epoch]) => epoch),
  ];
  const epochs = [minimum(allEpochs), maximum(allEpochs)];
  const range = paddedRange(values, isLog);
  const x = scale(...epochs, frame.edges.left, rightEdge(frame), false);
  const y = scale(...range, bottomEdge(frame), frame.edges.top, isLog);
  const label = `${column.title} by epoch; use the arrow keys to read values`;
  const plot = plotElement(frame, { tabindex: 0, "aria-label": label });
  drawCurveAxes(plot, frame, x, y, { column, epochs, values: range, isLog });
  for (const arm of shown) drawBand(plot, arm, x, y);
  for (const arm of shown) drawLines(plot, arm, x, y);
  addCursor(plot, frame, shown, x, y, column);
  container.replaceChildren(plot);
}

curveColumns.forEach((column, index) => metricSelect.append(html("option", { value: index }, column.title)));
const validationMetric = data.metric.key.replace(/^test\//, "val/");
metricSelect.value = String(
  Math.max(
    0,
    curveColumns.findIndex((column) => column.key === validationMetric),
  ),
);
addLegend();
for (const id of ["curve-metric", "curve-single", "curve-half", "curve-log"]) {
  byId(id).addEventListener("change", showCurves);
}
