// Numbers and other values as text.
function formatNumber(value, percent) {
  if (percent) return (100 * value).toFixed(2) + "%";
  if (Number.isInteger(value)) return Math.abs(value) < 1e7 ? String(value) : value.toExponential(3);
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) {
    return value
      .toExponential(2)
      .replace(/\.?0+e/, "e")
      .replace("e+", "e");
  }
  return String(Number(value.toPrecision(4)));
}

const isMissing = (value) => value === null || value === undefined || value === "";

function formatValue(value, percent) {
  if (isMissing(value)) return "–";
  if (typeof value === "number") return formatNumber(value, percent);
  if (typeof value === "boolean") return value ? "true" : "false";
  return typeof value === "string" ? value : JSON.stringify(value);
}

// Math.min(...values) fails for very long arrays, because a call takes a limited number of arguments.
const minimum = (values) => values.reduce((low, value) => Math.min(low, value), Infinity);
const maximum = (values) => values.reduce((high, value) => Math.max(high, value), -Infinity);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
