// Scales, ticks and axes, for the learning curves and the plots of settings.
function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * power).find((each) => each >= rough);
  const ticks = [];
  for (let multiple = Math.ceil(low / step - 1e-9); multiple * step <= high + step * 1e-9; multiple++) {
    ticks.push(Number((multiple * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const parts = last - first > 2 ? [1] : last - first > 1 ? [1, 3] : [1, 2, 5];
  const every = Math.max(1, Math.ceil((last - first) / 6));
  const ticks = [];
  for (let power = first; power <= last; power += every) {
    for (const part of parts) ticks.push(Number((part * 10 ** power).toPrecision(6)));
  }
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

// A function from values in [low, high] to pixels in [start, end].
function scale(low, high, start, end, isLog) {
  const transform = isLog ? Math.log10 : (value) => value;
  const [a, b] = [transform(low), transform(high)];
  return (value) => start + (end - start) * (b === a ? 0.5 : (transform(value) - a) / (b - a));
}

// The range of the values with a little space at either end.
function paddedRange(values, isLog) {
  const [low, high] = [minimum(values), maximum(values)];
  if (isLog) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.05, high * (high / low) ** 0.05];
  const space = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - space, high + space];
}

function formatTick(value, percent, ticks) {
  if (!percent) return formatNumber(value, false);
  const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) * 100 : 1;
  return (100 * value).toFixed(Math.max(0, Math.min(3, Math.ceil(-Math.log10(step) - 1e-9)))) + "%";
}

// `frame` is the width and height of a plot, and the edges around the area that is drawn on.
const rightEdge = (frame) => frame.width - frame.edges.right;
const bottomEdge = (frame) => frame.height - frame.edges.bottom;

function plotElement({ width, height }, attributes) {
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", ...attributes });
}

function drawYTicks(plot, frame, ticks, y, percent) {
  const { left } = frame.edges;
  for (const tick of ticks) {
    plot.append(
      svg("line", { class: "grid", x1: left, x2: rightEdge(frame), y1: y(tick), y2: y(tick) }),
      svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, formatTick(tick, percent, ticks)),
    );
  }
}

// A text below the horizontal axis, in its first line (0) or its second (1).
function xLabel(frame, x, line, ...children) {
  return svg("text", { x, y: bottomEdge(frame) + 18 + 16 * line, "text-anchor": "middle" }, ...children);
}

function drawXAxis(plot, frame) {
  const y = bottomEdge(frame);
  plot.append(svg("line", { class: "axis", x1: frame.edges.left, x2: rightEdge(frame), y1: y, y2: y }));
}
