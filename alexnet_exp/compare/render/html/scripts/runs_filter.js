// The rows of the table of runs: their cells, and which of them the filter accepts.
const indexes = data.runs.map((_, index) => index);
const hiddenStatuses = new Set();

function lookUp(run, key) {
  for (const group of ["settings", "results"]) {
    for (const source of [run[group], data.common[group]]) if (Object.hasOwn(source, key)) return source[key];
  }
  return undefined;
}

const keysOf = (run, group) => [...Object.keys(data.common[group]), ...Object.keys(run[group])];

const runsTable = (() => {
  const { columns, rows, runs } = data.table;
  const others = columns
    .map((column, index) => ({ ...column, index }))
    .filter((column) => !["run", "name", "status"].includes(column.key));
  const named = rows.map((cells, index) => ({ cells, run: runs[index] })).filter(({ run }) => data.runs[run]);
  return {
    columns: [{ key: "run", title: "Run" }, { key: "status", title: "Status" }, ...others],
    rows: named.map(({ cells, run }, order) => ({
      order,
      run,
      cells: [data.runs[run].name, data.runs[run].status, ...others.map((column) => cells[column.index])],
    })),
  };
})();

const isNumeric = runsTable.columns.map((_, index) => {
  const cells = runsTable.rows.map((row) => row.cells[index]).filter((cell) => cell !== null && cell !== undefined);
  return cells.length > 0 && cells.every((cell) => typeof cell === "number");
});

for (const row of runsTable.rows) {
  const texts = row.cells.map((cell, index) => formatValue(cell, runsTable.columns[index].percent));
  row.text = [...texts, data.runs[row.run].error, data.runs[row.run].note].join(" ").toLowerCase();
}

// The values that a name in the filter means: a column by its title, else every setting whose whole key or last part
// it is (`lr` for `optim.lr`).
function valuesNamed(row, name) {
  const column = runsTable.columns.findIndex((each) =>
    [each.key, each.title].some((one) => one.toLowerCase() === name),
  );
  if (column >= 0) return [row.cells[column]];
  const run = data.runs[row.run];
  const plain = (key) => key.toLowerCase().replace(/ \(option\)$/, "");
  return [...keysOf(run, "settings"), ...keysOf(run, "results")]
    .filter((key) => plain(key) === name || plain(key).split(/[./]/).pop() === name)
    .map((key) => lookUp(run, key));
}

function matchesCondition(value, sign, wanted) {
  const [left, right] = [Number(value), Number(wanted)];
  const areNumbers = value !== null && value !== "" && wanted !== "" && Number.isFinite(left) && Number.isFinite(right);
  const areEqual = areNumbers ? left === right : formatValue(value).toLowerCase() === wanted;
  if (sign === "=") return areEqual;
  if (sign === "!=") return !areEqual;
  if (!areNumbers) return false;
  return { "<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right }[sign];
}

function matchesWord(row, word) {
  const [, name, sign, wanted] = /^([^=<>!]+)(!=|<=|>=|=|<|>)(.*)$/.exec(word) || [];
  const values = name ? valuesNamed(row, name) : [];
  if (!values.length) return row.text.includes(word);
  if (sign === "!=") return values.every((value) => matchesCondition(value, sign, wanted));
  return values.some((value) => matchesCondition(value, sign, wanted));
}

const matchesFilter = (row, words) =>
  !hiddenStatuses.has(data.runs[row.run].status) && words.every((word) => matchesWord(row, word));

const wordsOf = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
