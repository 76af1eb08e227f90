// The configuration and results of one run, or of two runs side by side.
const CONFIGURATION_GROUPS = [
  ["settings", "Settings"],
  ["results", "Results and environment"],
];
const [runSelect, otherSelect] = [byId("run-a"), byId("run-b")];
const formatExact = (value) => {
  if (value === undefined) return "not set";
  return typeof value === "string" ? value : JSON.stringify(value);
};
const areSame = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function addRunOptions() {
  otherSelect.append(html("option", { value: "" }, "no other run"));
  for (const select of [runSelect, otherSelect]) {
    data.runs.forEach(({ name, status }, index) => {
      select.append(html("option", { value: index }, status === "done" ? name : `${name} (${status})`));
    });
  }
  // The first runs of the best arm and of the last.
  const firsts = arms.map((arm) => arm.runs[0]).filter((run) => run !== undefined);
  if (firsts.length) runSelect.value = String(firsts[0]);
  if (firsts.length > 1) otherSelect.value = String(firsts[firsts.length - 1]);
}

// The key of both runs as { key, left, right, differs }, in alphabetical order.
function configurationRows(run, other, group) {
  const keys = new Set([...keysOf(run, group), ...(other ? keysOf(other, group) : [])]);
  return [...keys]
    .sort((a, b) => a.localeCompare(b, "en"))
    .map((key) => {
      const [left, right] = [lookUp(run, key), other ? lookUp(other, key) : undefined];
      return { key, left, right, differs: Boolean(other) && !areSame(left, right) };
    });
}

function configurationRow({ key, left, right, differs }, hasOther) {
  return html(
    "tr",
    { class: differs ? "differs" : null },
    html("th", { scope: "row" }, key, " ", differs ? html("span", { class: "tag" }, "differs") : null),
    html("td", {}, formatExact(left)),
    hasOther ? html("td", {}, formatExact(right)) : null,
  );
}

function configurationHead(run, other) {
  const names = ["Key", run.name, ...(other ? [other.name] : [])];
  return html("thead", {}, html("tr", {}, ...names.map((name) => html("th", { scope: "col" }, name))));
}

function showRunNotes(run, other) {
  const notes = [...new Set([run, other])].filter((each) => each && (each.note || each.error));
  const text = ({ name, error, note }) => `${name}: ${[error, note].filter(Boolean).join("\n")}`;
  byId("run-notes").replaceChildren(...notes.map((each) => html("p", {}, text(each))));
}

function showConfiguration() {
  const run = data.runs[Number(runSelect.value)];
  const other = otherSelect.value === "" ? null : data.runs[Number(otherSelect.value)];
  byId("config-differing").disabled = !other;
  byId("run-notes").replaceChildren();
  if (!run) return;
  showRunNotes(run, other);
  const words = wordsOf(byId("config-filter"));
  const onlyDiffering = Boolean(other) && byId("config-differing").checked;
  const isShown = ({ key, left, right, differs }) => {
    const text = `${key} ${formatValue(left)} ${other ? formatValue(right) : ""}`.toLowerCase();
    return (differs || !onlyDiffering) && words.every((word) => text.includes(word));
  };
  const span = other ? 3 : 2;
  const rows = [];
  let [shownCount, differingCount] = [0, 0];
  for (const [group, title] of CONFIGURATION_GROUPS) {
    const all = configurationRows(run, other, group);
    const shown = all.filter(isShown);
    shownCount += shown.length;
    if (group === "settings") differingCount = all.filter((row) => row.differs).length;
    if (!shown.length) continue;
    rows.push(html("tr", { class: "group" }, html("th", { colspan: span, scope: "colgroup" }, title)));
    rows.push(...shown.map((row) => configurationRow(row, Boolean(other))));
  }
  if (!rows.length) rows.push(html("tr", {}, html("td", { class: "empty", colspan: span }, "No key matches.")));
  byId("config-table").replaceChildren(configurationHead(run, other), html("tbody", {}, ...rows));
  const differing = `${differingCount} ${differingCount === 1 ? "setting differs" : "settings differ"}`;
  byId("config-shown").textContent = `${shownCount} shown` + (other ? `; ${differing}` : "");
}

addRunOptions();
for (const select of [runSelect, otherSelect]) select.addEventListener("change", showConfiguration);
byId("config-filter").addEventListener("input", showConfiguration);
byId("config-differing").addEventListener("change", showConfiguration);
showConfiguration();
