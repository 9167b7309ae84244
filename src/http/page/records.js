/* Reports: what they made last, when they are due, and a button to make one now; and the audit trail's chain. */
const STATES = { made: "ok", failed: "error", "not made yet": "warn" };
const dotted = (kind, text) => make("span", { class: `dot ${kind}` }, text);
const moment = (text) => text ? `${text.replace("T", " ").replace(/(\.\d+)?Z$/, "")} UTC` : "–";
const trouble = (answer) => make("p", { class: "error" }, `${answer.error}. To do: ${answer.remedy}.`);

/* Asks for something, says what became of it, and looks again; null if it was refused. */
async function deed(path, body, told) {
  let answer = null;
  try {
    answer = await post(path, body);
    if (answer.error) say(`${answer.error}. To do: ${answer.remedy}.`, "error");
    else say(told, "soft");
  } catch (error) { say(`No answer: ${error.message}`, "error"); }
  lately = {};
  loop();
  return answer && !answer.error ? answer : null;
}

const runReport = (name) => deed(`/api/v1/reports/${encodeURIComponent(name)}/run`, {}, `Asked for the report ${name}: it is made beside the stream.`);
const latestOf = (report) => report.latest ? dotted(STATES[report.latest.state], report.latest.state) : dotted("soft", "not due yet");
const late = (manifest) => manifest && manifest.late_seconds > 60 ? make("span", { class: "warn" }, `${seconds(manifest.late_seconds)} late`) : null;

function reports(answer, control) {
  const head = make("h2", {}, Array.isArray(answer) ? `Reports (${number(answer.length)})` : "Reports");
  if (answer.error) return make("section", { "aria-label": "reports" }, head, trouble(answer));
  if (!answer.length) return make("section", { "aria-label": "reports" }, head, make("p", { class: "soft" },
    "There is no [[report]]: a query of a cut, made whenever a schedule says so, with a manifest of what it was made from."));
  const heads = ["report", { name: "last due", class: "left" }, { name: "next due", class: "left wide" }, { name: "last result", class: "left wide" },
    { name: "rows", class: "wide" }, "made", "failed", control ? { name: "now", class: "left" } : null].filter((of) => of);
  const rows = answer.map((report) => make("tr", {},
    make("td", {}, make("a", { href: `#:report/${encodeURIComponent(report.report)}` }, report.report)),
    make("td", { class: "left wrap" }, latestOf(report)), make("td", { class: "left wide" }, moment(report.next_due)),
    make("td", { class: "left wide" }, report.last ? [moment(report.last.due), " "].join("") : "–", late(report.last)),
    make("td", { class: "wide" }, report.last ? number(report.last.rows) : "–"), make("td", {}, number(report.runs_made)),
    make("td", { class: report.runs_failed ? "error" : "" }, number(report.runs_failed)),
    control ? make("td", { class: "left" }, make("button", { "aria-label": `Make ${report.report} now`, onclick: () => runReport(report.report) }, "Make")) : null));
  return make("section", { "aria-label": "reports" }, head, grid(heads, rows));
}

async function drawReport(name, control) {
  const answer = await askLately(`/api/v1/reports/${encodeURIComponent(name)}`);
  const back = make("a", { href: "#:trust", class: "end" }, "All of Trust");
  const head = make("div", { class: "bar" }, make("h2", {}, `Report ${name}`), back);
  if (answer.error) return [make("section", {}, head, trouble(answer))];
  const failed = answer.runs.filter((run) => run.error).slice(0, 3);
  const rows = answer.runs.map((run) => make("tr", {}, make("td", {}, run.run), make("td", { class: "left" }, dotted(STATES[run.state], run.state)),
    make("td", { class: "left wrap" }, run.manifest ? moment(run.manifest.as_of) : "–", run.manifest ? " " : null, late(run.manifest)),
    make("td", {}, run.manifest ? number(run.manifest.rows) : "–"), make("td", { class: "wide" }, run.manifest ? run.manifest.cut.lsn : "–"),
    make("td", { class: "left path wide" }, run.manifest ? run.manifest.files.map((file) => `${file.name} (${bytes(file.bytes)})`).join(", ") : "–")));
  return [make("section", { "aria-label": "report" }, head,
    make("p", {}, `Schedule: ${answer.schedule} (${answer.time_zone}); next due ${moment(answer.next_due)}. `, make("span", { class: "soft" }, `Results: ${answer.output}`)),
    ...failed.map((run) => make("div", { class: "problem error" }, make("div", {}, make("strong", {}, `${run.run} failed`),
      make("p", {}, `${run.error.what}: ${run.error.why}`), make("p", {}, `To do: ${run.error.remedy}.`)))),
    answer.asked ? make("p", {}, "It is asked for, and not made yet.") : null,
    control ? make("p", {}, make("button", { onclick: () => runReport(name), disabled: answer.asked ? "" : null }, "Make it now")) : null,
    control ? newBackfill(name) : null,
    rows.length ? grid(["run", { name: "state", class: "left" }, { name: "as of", class: "left" }, "rows", { name: "cut at", class: "wide" },
      { name: "files", class: "left wide" }], rows) : make("p", { class: "soft" }, "No run of it was made yet."))];
}

/* A chain is checked once by itself if it is not long, and then whenever somebody asks for it: all of it is read. */
const CHECKED_AT_ONCE = 20000;
let chain = { answer: null, at: 0, isAsked: false };
async function checkChain() {
  if (chain.isAsked) return;
  chain.isAsked = true;
  loop();
  try { chain = { answer: await ask("/api/v1/audit/check"), at: Date.now(), isAsked: false }; }
  catch (error) { chain = { answer: { error: error.message, remedy: "ask again" }, at: Date.now(), isAsked: false }; }
  loop();
}

const FAULTS = { changed: "was changed: its hash is not that of its values", repeated: "is there more than once", foreign: "is of another pipeline",
  detached: "does not follow the one before it: one of the two was replaced, or they changed places", signature_wrong: "has a wrong signature",
  unsigned: "is not signed, nor is any after it", head_differs: "is not the one of the head: the chain was written anew",
  unchecked: "is signed, and no key is configured to check that with" };
const fault = (found) => found.fault === "missing" ? (found.to === found.sequence ? `Entry ${found.sequence} is missing.`
  : `Entries ${found.sequence} to ${found.to} are missing.`) : found.fault === "key_unknown"
  ? `Entry ${found.sequence} was signed with another key, ${found.key_id}.` : `Entry ${found.sequence} ${FAULTS[found.fault] || found.fault}.`;

function chainState() {
  if (chain.isAsked) return dotted("soft", "being checked…");
  if (!chain.answer) return dotted("soft", "not checked yet");
  if (chain.answer.error) return dotted("warn", "not checked");
  return chain.answer.count ? dotted("error", `broken: ${number(chain.answer.count)} fault${chain.answer.count > 1 ? "s" : ""}`) : dotted("ok", "as it was written");
}

/* What an entry says, in a line. */
function entryText(entry) {
  let told = {};
  try { told = JSON.parse(entry.entry); } catch (error) { return entry.entry; }
  const list = (values) => Object.entries(values).filter(([, value]) => value !== null && value !== false && typeof value !== "object")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ");
  const details = told.details && list(told.details);
  const text = told.error ? `failed: ${told.error}` : told.what ? `${told.what}${details ? `: ${details}` : ""}` : list(told.asked || told);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

/* Entries of one kind, if somebody wants to see only those. */
const AUDIT_KINDS = ["", "configured", "asked", "table_changed", "copy_started", "parked", "cut_created", "cut_made", "cut_dropped", "cut_exported",
  "verification", "history_verification", "report_made", "report_failed", "report_run", "copy", "copy_ended", "failed", "interrupted", "table_gone", "teardown", "backfill", "replay", "erasure", "erasure_begun", "hold_added",
  "hold_released", "history_trimmed", "history_kept", "optimized", "vacuumed"];
let auditKind = "";
const auditPath = () => `audit?limit=12${auditKind ? `&kind=${auditKind}` : ""}`;

/* Also what was cut off is found, by an end of the chain that somebody has kept. */
function checkSince(event) {
  event.preventDefault();
  const head = $("chain-head").value.trim();
  askTask("/api/v1/audit/verify", head ? { head } : {}, "a check of the whole audit chain");
}

function audit(answer, control) {
  const head = make("h2", {}, "Audit chain");
  if (answer === null) return make("section", { "aria-label": "audit" }, head, make("p", { class: "soft" },
    "Nothing is recorded: [audit] keeps what the pipeline did, and who asked for what, as a chain that anybody can check."));
  if (answer.error) return make("section", { "aria-label": "audit" }, head, trouble(answer));
  const [count, hash] = (answer.head || "0:").split(":");
  const checked = chain.answer && !chain.answer.error ? chain.answer : null;
  return make("section", { "aria-label": "audit" }, make("div", { class: "bar" }, head, chainState()),
    answer.head ? make("p", {}, `${number(Number(count))} entries; the last one’s hash begins with `, make("code", {}, hash.slice(0, 16)), ". ",
      checked ? `${number(checked.entries)} of them were checked ${at(chain.at * 1000)} UTC, and ${number(checked.signatures)} signatures are right. ` : null,
      answer.signing_key_id ? make("span", {}, "Signed with the key ", make("code", {}, answer.signing_key_id), ".")
        : make("span", { class: "soft" }, "Not signed: who may write the lake could write all of it anew, unless its head is kept elsewhere."))
      : make("p", { class: "soft" }, "There are no entries yet."),
    chain.answer && chain.answer.error ? make("p", { class: "warn" }, `Not checked: ${chain.answer.error}. To do: ${chain.answer.remedy}.`) : null,
    checked && checked.count ? make("ul", { class: "error" }, ...checked.findings.slice(0, 10).map((found) => make("li", {}, fault(found)))) : null,
    make("p", {}, make("button", { onclick: checkChain, disabled: chain.isAsked ? "" : null }, "Check the whole chain")),
    control ? make("form", { class: "bar", "data-stays": "chain", onsubmit: checkSince }, make("label", {}, "Check it beside the stream, with a former end ",
      make("input", { id: "chain-head", autocomplete: "off", placeholder: "SEQUENCE:HASH", title: "what was shown once, and kept elsewhere: so it is found, too, if entries were cut off" })),
      make("button", {}, "Check it")) : make("p", { class: "soft" }, "`sooner audit verify --head` also finds what was cut off."),
    make("label", {}, "Show ", make("select", { id: "audit-kind", onchange: (event) => { auditKind = event.target.value; lately = {}; loop(); } },
      ...AUDIT_KINDS.map((kind) => make("option", { value: kind, selected: kind === auditKind ? "" : null }, kind ? kind.replaceAll("_", " ") : "all entries")))),
    make("ol", { class: "events" }, ...answer.entries.map((entry) => make("li", {}, make("time", {}, at(entry.at_micros)),
      make("strong", {}, entry.kind.replaceAll("_", " ")),
      make("span", {}, entry.table ? `${entry.table}: ` : "", entryText(entry), make("span", { class: "soft" }, ` — ${entry.side}, ${entry.actor}`))))));
}
