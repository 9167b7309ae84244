/* What takes long, was asked for and is done beside the stream: exports, backfills, replays and checks. */
const TASK_STATES = { waiting: "soft", begun: "accent", failed: "error" };
const TASKS = {
  cut_export: (it) => `Export of the cut ${it.cut}`,
  cut_verification: (it) => `Verification of the cut ${it.cut}`,
  backfill: (it) => `Backfill of ${it.report}, ${it.from} to ${it.to}`,
  replay: (it) => `Events of ${it.table}, ${it.from} to ${it.to}`,
  history_verification: (it) => `Chain of the history of ${it.table}`,
  audit_verification: () => "Check of the whole audit chain",
  report_run: (it) => `Run of ${it.report} that was due ${it.due}`,
  optimize: (it) => `Optimization of ${someTables(it.tables)}`,
  vacuum: (it) => `${it.dry_run ? "What a vacuum would delete of" : "Vacuum of"} ${someTables(it.tables)}`,
};
const someTables = (tables) => !tables.length ? "all tables" : tables.length > 3 ? `${number(tables.length)} tables` : tables.join(", ");
const CAME_TO = {
  cut_export: (it) => `${number(it.rows)} rows of ${number(it.tables)} tables${it.histories ? ` and ${number(it.histories)} histories` : ""} in ${number(it.files)} files, ${bytes(it.bytes)}, at ${it.url}`,
  cut_verification: (it) => `${number(it.counts.equal)} equal, ${number(it.counts.different)} different, ${number(it.counts.unverified)} unverified`,
  backfill: (it) => `${number(it.made)} runs made, ${number(it.complete)} complete already, ${number(it.failed)} could not be made; at ${it.url}`,
  replay: (it) => `${number(it.events)} events, ${bytes(it.bytes)}, at ${it.into}`,
  history_verification: (it) => `${number(it.rows)} chained rows${it.count ? `, ${number(it.count)} faults` : ""}`,
  audit_verification: (it) => `${number(it.entries)} entries, ${number(it.signatures)} signatures${it.count ? `, ${number(it.count)} faults` : ""}`,
  report_run: (it) => `${it.manifest.format === "views" ? "views" : `${number(it.manifest.rows)} rows`}, at ${it.url}`,
  optimize: (it) => `${number(it.sums.files_before || 0)} files became ${number(it.sums.files_after || 0)}`,
  vacuum: (it) => `${it.deleted ? "deleted" : "would delete"} ${number(it.sums.files || 0)} files, ${bytes(it.sums.bytes || 0)}${it.sums.history_rows ? `, and ${number(it.sums.history_rows)} rows of histories` : ""}`,
};
/* What is wrong with what was done, in words. */
const WRONG = {
  cut_verification: (it) => it.reports.map((report) => `${report.table}: ${report.verdict === "different" ? `${report.at_least ? "at least " : ""}${number(report.count)} rows differ` : report.why}`),
  backfill: (it) => it.failures.map((failure) => `${failure.due}: ${failure.error.why}`),
  history_verification: (it) => it.findings.map(rowFault),
  audit_verification: (it) => it.findings.map(fault),
};
const rowFault = (found) => found.fault === "unchained" ? `${number(found.rows)} rows after row ${found.sequence} are not chained.`
  : found.fault === "uncertified" ? `${number(found.rows)} rows say that the erasure ${found.erasure} took their values, and no certificate says so.`
  : fault(found).replace("Entry", "Row").replace("Entries", "Rows");

function taskState(task) {
  if (task.state === "done") return task.good ? dotted("ok", "done") : dotted("error", "not as it should be");
  return dotted(TASK_STATES[task.state], task.state);
}

function cameTo(task) {
  if (task.state === "failed") return [`${task.error.why}. To do: ${task.error.remedy}.`];
  if (task.state !== "done") return [task.attempts > 1 ? `begun ${task.attempts} times` : "–"];
  const wrong = task.good ? [] : WRONG[task.wanted.kind](task.result);
  return [CAME_TO[task.wanted.kind](task.result), wrong.length ? make("ul", { class: "error" }, ...wrong.slice(0, 5).map((text) => make("li", {}, text)),
    wrong.length > 5 ? make("li", {}, `and ${number(wrong.length - 5)} more`) : null) : null];
}

const forgetTask = (name) => deed(`/api/v1/tasks/${encodeURIComponent(name)}/forget`, {}, "Forgot it; what it made stays.");

const MOST_TASKS = 20;
function tasks(answer, control) {
  if (answer.tasks === null || !answer.tasks.length) return null;
  const heads = ["asked for", { name: "state", class: "left" }, { name: "when", class: "left wide" }, { name: "came to", class: "left" },
    control ? { name: "now", class: "left" } : null].filter((of) => of);
  const rows = answer.tasks.slice(0, MOST_TASKS).map((task) => make("tr", {}, make("td", {}, TASKS[task.wanted.kind](task.wanted)),
    make("td", { class: "left wrap" }, taskState(task)), make("td", { class: "left wide" }, `${at(task.asked_micros)} UTC`),
    make("td", { class: "left path" }, ...cameTo(task).filter((part) => part)),
    control ? make("td", { class: "left" }, task.state === "begun" ? null
      : make("button", { "aria-label": `Forget ${task.name}`, onclick: () => forgetTask(task.name) }, task.state === "waiting" ? "Withdraw" : "Forget")) : null));
  return make("section", { "aria-label": "tasks" }, make("h2", {}, `Tasks (${number(answer.tasks.length)})`), grid(heads, rows),
    answer.tasks.length > rows.length ? make("p", { class: "soft" }, `The last ${rows.length} of ${number(answer.tasks.length)}.`) : null);
}

const askTask = (path, body, what) => deed(path, body, `Asked for ${what}: it is done beside the stream; what it comes to is under Trust, Tasks.`);

/* How a cut is read, in the language that was asked for last. */
let languages = { cut: "", engine: "", text: "" };
async function readCut(cut, engine) {
  try {
    const answer = await ask(`/api/v1/cuts/${encodeURIComponent(cut)}/sql?engine=${engine}`);
    const text = answer.error ? `${answer.error}. To do: ${answer.remedy}.` : Object.values(answer.tables).flatMap(Object.values).join("\n");
    languages = { cut, engine, text };
  } catch (error) { languages = { cut, engine, text: `no answer: ${error.message}` }; }
  loop();
}

function cutReading(cut) {
  const asked = languages.cut === cut ? languages : { text: "" };
  return make("section", { "aria-label": "reading" }, make("h2", {}, "Read it"),
    make("div", { class: "bar" }, ...[["spark", "Spark"], ["duckdb", "DuckDB"], ["polars", "Polars"], ["trino", "Trino"]].map(([engine, name]) =>
      make("button", { "aria-pressed": String(asked.engine === engine), onclick: () => readCut(cut, engine) }, name))),
    asked.text ? make("pre", { tabindex: "0" }, asked.text) : null);
}

function cutVerbs(cut) {
  const path = `/api/v1/cuts/${encodeURIComponent(cut)}`;
  return [make("button", { onclick: () => askTask(`${path}/export`, {}, `an export of ${cut}`) }, "Export it"),
    make("button", { onclick: () => askTask(`${path}/verify`, {}, `a verification of ${cut}`) }, "Verify it")];
}

const inForm = (id, text, more) => make("label", {}, `${text} `, make("input", { id, autocomplete: "off", required: "", ...more }));

function newBackfill(report) {
  const asked = (event) => {
    event.preventDefault();
    const [from, to] = [$("fill-from").value.trim(), $("fill-to").value.trim()];
    askTask(`/api/v1/reports/${encodeURIComponent(report)}/backfill`, { from, to }, `runs from ${from} to ${to}`);
  };
  const more = { placeholder: "2026-01-31", title: "a day by the report’s time zone, or a UTC time such as 2026-01-31T22:00:00Z" };
  return make("form", { class: "bar", "data-stays": "fill", onsubmit: asked }, inForm("fill-from", "Fill the runs from", more),
    inForm("fill-to", "to", more), make("button", {}, "Fill them"));
}

function newReplay(table) {
  const asked = (event) => {
    event.preventDefault();
    const [from, to, format, source] = ["replay-from", "replay-to", "replay-format", "replay-source"].map((id) => $(id).value.trim());
    askTask(`/api/v1/tables/${encodeURIComponent(table)}/replay`, source ? { from, to, format, source } : { from, to, format }, `the events of ${table}`);
  };
  const title = "an LSN such as 0/16B3748, a UTC time such as 2026-01-31T22:00:00Z,";
  return make("form", { class: "bar", "data-stays": `replay ${table}`, onsubmit: asked },
    inForm("replay-from", "Its events after", { placeholder: "copy", title: `${title} or copy: from the last copy on` }),
    inForm("replay-to", "to", { placeholder: "now", title: `${title} or now` }),
    make("label", {}, "as ", make("select", { id: "replay-format" }, make("option", { value: "jsonl" }, "JSON lines"),
      make("option", { value: "parquet" }, "Parquet"))),
    make("label", {}, "of ", make("select", { id: "replay-source", title: "where they are read" }, make("option", { value: "" }, "what there is"),
      make("option", { value: "history" }, "its history"), make("option", { value: "topic" }, "its topic"))), make("button", {}, "Replay them"));
}

/* A query of the table as of a moment, from its history, to paste. */
let asOf = { table: "", text: "" };
async function readAsOf(table) {
  const moment = $("as-of").value.trim(), engine = $("as-of-engine").value;
  try {
    const answer = await ask(`/api/v1/tables/${encodeURIComponent(table)}/history?engine=${engine}${moment ? `&as_of=${encodeURIComponent(moment)}` : ""}`);
    asOf = { table, text: answer.error ? `${answer.error}. To do: ${answer.remedy}.` : answer.sql };
  } catch (error) { asOf = { table, text: `no answer: ${error.message}` }; }
  loop();
}

function historyQuery(table) {
  const asked = (event) => {
    event.preventDefault();
    readAsOf(table);
  };
  return [make("form", { class: "bar", "data-stays": `as of ${table}`, onsubmit: asked },
    make("label", {}, "A query of the table as of ", make("input", { id: "as-of", autocomplete: "off", placeholder: "all states of each row",
      title: "an LSN such as 0/16B3748, a UTC time such as 2026-01-31T22:00:00Z, or now; each state of each row, with its time, if left empty" })),
    make("label", {}, "for ", make("select", { id: "as-of-engine" }, make("option", { value: "duckdb" }, "DuckDB"), make("option", { value: "spark" }, "Spark"))),
    make("button", {}, "Show it")), asOf.table === table && asOf.text ? make("pre", { tabindex: "0", "data-part": "as of" }, asOf.text) : null];
}

/* What can be done for a table beside its stream. */
function tableVerbs(table) {
  const verify = (repair) => deed("/api/v1/verifications", { tables: [table], repair },
    `Asked for a verification of ${table}${repair ? ", and for what still differs to be copied again" : ""}: it is made beside the stream.`);
  const upkeep = (path, body, what) => askTask(`/api/v1/${path}`, { tables: [table], ...body }, what);
  return make("div", { class: "bar" }, make("button", { onclick: () => verify(false) }, "Verify it"),
    make("button", { onclick: () => verify(true) }, "Verify and repair it"),
    make("button", { onclick: () => upkeep("optimize", {}, `an optimization of ${table}`) }, "Optimize it"),
    make("button", { onclick: () => upkeep("vacuum", { dry_run: true }, `what a vacuum of ${table} would delete`) }, "What would a vacuum delete?"),
    make("button", { onclick: () => { if (confirm(`Vacuum ${table}? Files that no version needs which is kept are deleted.`)) upkeep("vacuum", {}, `a vacuum of ${table}`); } }, "Vacuum it"));
}

/* What can be asked about the events of a table. */
function eventVerbs(table, write) {
  const path = `/api/v1/tables/${encodeURIComponent(table)}/history/verify`;
  return [newReplay(table), write && write.includes("history")
    ? make("p", {}, make("button", { onclick: () => askTask(path, {}, `a check of the chain of ${table}`) }, "Check the chain of its history")) : null];
}
