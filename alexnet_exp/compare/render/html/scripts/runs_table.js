// The table of runs: sorted by its headings, filtered by words and by status.
const STATUS_SIGNS = { done: "✓", failed: "✕", killed: "✕", running: "…", interrupted: "‖", pruned: "✂" };
const sorting = { column: null, descending: false };
const statusSign = (status) => STATUS_SIGNS[status] || "·";

function compareRows(a, b) {
  const { column, descending } = sorting;
  if (column === null) return a.order - b.order;
  const [left, right] = [a.cells[column], b.cells[column]];
  // Missing values are last in both directions.
  if (isMissing(left) || isMissing(right)) return isMissing(left) - isMissing(right) || a.order - b.order;
  const areNumbers = typeof left === "number" && typeof right === "number";
  const ascending = areNumbers
    ? left - right
    : formatValue(left).localeCompare(formatValue(right), "en", { numeric: true });
  return (descending ? -ascending : ascending) || a.order - b.order;
}

function openRun(index) {
  byId("run-a").value = String(index);
  byId("config-differing").checked = false;
  showConfiguration();
  byId("configuration").scrollIntoView();
  byId("configuration-title").focus({ preventScroll: true });
}

function nameCell(row) {
  const { name, error } = data.runs[row.run];
  const open = (event) => {
    event.preventDefault();
    openRun(row.run);
  };
  const link = html("a", { href: "#configuration", onclick: open }, name);
  return html("th", { scope: "row", class: "name" }, link, error ? html("span", { class: "error" }, error) : null);
}

function statusCell(row) {
  const { status } = data.runs[row.run];
  const sign = html("span", { "aria-hidden": "true" }, statusSign(status) + " ");
  return html("td", { class: `status ${status}` }, sign, status);
}

function valueCell(row, column) {
  const text = formatValue(row.cells[column], runsTable.columns[column].percent);
  return html("td", { class: isNumeric[column] ? "number" : null }, text);
}

const runsBody = html("tbody");
for (const row of runsTable.rows) {
  const cells = runsTable.columns.map((_, column) => {
    if (column === 0) return nameCell(row);
    return column === 1 ? statusCell(row) : valueCell(row, column);
  });
  row.node = html("tr", { class: data.runs[row.run].status === "done" ? null : "not-done" }, ...cells);
}

function sortBy(column) {
  // The first click on a column of numbers puts the largest first.
  sorting.descending = sorting.column === column ? !sorting.descending : isNumeric[column];
  sorting.column = column;
  showRuns();
}

const runsHeadings = runsTable.columns.map(({ title }, column) => {
  const button = html("button", { type: "button", onclick: () => sortBy(column) }, title);
  return html("th", { scope: "col", class: isNumeric[column] ? "number" : null }, button);
});

function showRuns() {
  const words = wordsOf(byId("filter"));
  const rows = runsTable.rows.filter((row) => matchesFilter(row, words)).sort(compareRows);
  runsBody.replaceChildren(...rows.map((row) => row.node));
  if (!rows.length) {
    const cell = html("td", { colspan: runsTable.columns.length, class: "empty" }, "No run matches.");
    runsBody.append(html("tr", {}, cell));
  }
  runsHeadings.forEach((heading, column) => {
    if (sorting.column === column) heading.setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
    else heading.removeAttribute("aria-sort");
  });
  byId("shown").textContent = `${rows.length} of ${runsTable.rows.length} runs`;
}

function toggleStatus(button, status) {
  const isShown = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(isShown));
  if (isShown) hiddenStatuses.delete(status);
  else hiddenStatuses.add(status);
  showRuns();
}

function addStatusButtons() {
  const statuses = [...new Set(data.runs.map((run) => run.status))];
  if (statuses.length < 2) return;
  for (const status of statuses) {
    const count = data.runs.filter((run) => run.status === status).length;
    const onclick = (event) => toggleStatus(event.currentTarget, status);
    const attributes = { type: "button", "aria-pressed": "true", "data-status": status, onclick };
    byId("statuses").append(html("button", attributes, `${statusSign(status)} ${status} ${count}`));
  }
}

byId("runs-table").append(
  html("caption", { hidden: true }, "All runs"),
  html("thead", {}, html("tr", {}, ...runsHeadings)),
  runsBody,
);
byId("filter").addEventListener("input", showRuns);
addStatusButtons();
showRuns();
