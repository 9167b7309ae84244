/* Events a second since the last look, over all tables. */
let seen = null;
function rate(status) {
  const now = { at: status.updated_micros, events: status.events };
  if (seen && now.at > seen.at && now.events >= seen.events) {
    now.rate = (now.events - seen.events) / ((now.at - seen.at) / 1e6);
  } else if (seen) now.rate = seen.rate;
  seen = now;
  return now.rate === undefined ? "" : `${number(Math.round(now.rate))} events/s, `;
}

function hops(status) {
  const hop = (name, value, ...notes) => make("li", {}, make("span", { class: "soft" }, name), make("b", {}, value),
    make("span", { class: "soft" }, notes.filter((note) => note).join(", ")));
  const slot = status.slot, end = status.server_end_lsn;
  return make("section", { "aria-label": "hops" }, make("ol", { class: "hops path" },
    hop("Postgres’ log", slot ? `${bytes(slot.retained_bytes)} kept` : "–", slot && slot.wal_status, `ends at ${end}`),
    hop("Read", `${behind(end, status.received_lsn)} behind`, `at ${status.received_lsn}`),
    hop("In the lake", `${behind(end, status.durable_lsn)} behind`, `${rate(status)}at ${status.durable_lsn}`),
    hop("Confirmed to the slot", `${behind(end, status.confirmed_flush_lsn)} behind`, `at ${status.confirmed_flush_lsn}`)));
}

const viewed = () => decodeURIComponent(location.hash.slice(1));

function problem(check, button) {
  const since = check.since_micros ? `, since ${at(check.since_micros)} UTC` : "";
  return make("div", { class: `problem ${check.health}` }, make("div", {},
    make("strong", {}, check.name.includes(".") && check.name !== viewed() ? make("a", { href: `#${encodeURIComponent(check.name.replace("history of ", ""))}` }, check.name) : check.name,
      `: ${check.health}${since}`),
    make("p", {}, check.reason), make("p", {}, `To do: ${check.remedy}.`)), button);
}

function problems(health) {
  const ill = health.checks.filter((check) => check.health !== "ok"), more = health.ill - ill.length;
  if (!ill.length) return make("section", { "aria-label": "problems" }, make("p", { class: "ok dot" }, "Nothing is wrong."));
  return make("section", { "aria-label": "problems" }, make("h2", {}, "What is wrong"),
    ...ill.map((check) => problem(check, remedy(health, check))),
    more > 0 ? make("p", { class: "soft" }, `And ${number(more)} more, the worst of which are first in the tables.`) : null);
}

function remedy(health, check) {
  if (!health.control) return null;
  if (check.name.includes(".") && check.health === "error") {
    return make("button", { "aria-label": `Resume ${check.name}`, onclick: () => verb(check.name, "resume") }, "Resume");
  }
  return check.reason.includes("paused") ? make("button", { onclick: () => verb(null, "resume") }, "Resume the pipeline") : null;
}

/* So many tables are drawn at a time: what they are is asked a page at a time, too. */
const PAGE_ROWS = 100;
const wanted = { filter: "", phase: "", sort: "worst", usual: "worst", offset: 0 };

/* Gives the status the tables that are looked for, and their number. */
async function addTables(status, look, limit) {
  const asked = new URLSearchParams({ filter: look.filter, sort: look.sort, offset: look.offset, limit });
  if (look.phase) asked.set("phase", look.phase);
  const answer = await send(`/api/v1/tables?${asked}`);
  status.found = Number(answer.headers.get("x-total-count"));
  status.tables = await answer.json();
}

const KINDS = { parked: "error", waiting: "warn", copying: "accent", gone: "soft" };

function phase(table) {
  const share = table.copy && table.rows_estimated ? Math.min(table.rows_copied / table.rows_estimated, 0.99) : null;
  return make("span", { class: `dot ${KINDS[table.phase] || "ok"}` }, share === null ? table.phase : `${table.phase} ${percent(share)}`);
}

/* What tables are looked for by: their phase and their name. */
function seek(status) {
  const chip = (name, count) => make("button", { "aria-pressed": String(wanted.phase === name), onclick: () => {
    wanted.phase = wanted.phase === name ? "" : name;
    wanted.offset = 0;
    loop();
  } }, make("span", { class: `dot ${KINDS[name] || "ok"}` }, `${number(count)} ${name}`));
  const phases = Object.entries(status.phases);
  const name = make("input", { type: "search", id: "filter", class: "end", placeholder: "Tables named…", autocomplete: "off",
    "aria-label": "Tables named", oninput: (event) => { wanted.filter = event.target.value; wanted.offset = 0; loop(); } });
  return make("div", { class: "bar" }, make("h2", {}, `Tables (${number(status.tables_count)})`),
    ...(phases.length > 1 || wanted.phase ? phases.map(([name, count]) => chip(name, count)) : []),
    status.tables_count > 10 || wanted.filter ? name : null);
}

function pager(status) {
  const shown = Object.keys(status.tables).length, { offset } = wanted;
  if (!shown) return make("p", { class: "soft" }, status.tables_count ? "No table is so." : "No table takes part yet.");
  if (status.found <= PAGE_ROWS) return null;
  const turn = (by) => () => { wanted.offset = Math.max(0, offset + by); loop(); };
  return make("div", { class: "bar" }, make("span", { class: "soft" },
    `${number(offset + 1)} to ${number(offset + shown)} of ${number(status.found)}`),
    make("button", { onclick: turn(-PAGE_ROWS), disabled: offset === 0 ? "" : null }, "Previous"),
    make("button", { onclick: turn(PAGE_ROWS), disabled: offset + shown >= status.found ? "" : null }, "Next"));
}

function tables(status) {
  const heads = [{ name: "table", sort: "name", ascends: true }, { name: "phase", sort: "phase", ascends: true, class: "left" },
    { name: "lag", sort: "lag", title: "age of the oldest change that is not visible yet" }, { name: "events", sort: "events" },
    { name: "rows copied", sort: "copied", class: "wide" }, { name: "unread", sort: "unread", class: "wide" },
    { name: "version", sort: "version", class: "wide" }, { name: "files", sort: "files", class: "wide" },
    { name: "size", sort: "size", class: "wide" },
    { name: "dead rows", sort: "gone", class: "wide", title: "share of rows in files that are deleted, until files are written again" }]
    .filter((head) => head.name !== "unread" || status.reads_topics);
  const rows = Object.entries(status.tables).map(([name, table]) => make("tr", {},
    make("td", {}, make("a", { href: `#${encodeURIComponent(name)}` }, name)), make("td", { class: "left" }, phase(table)),
    make("td", {}, seconds(table.lag_seconds)), make("td", {}, number(table.events)),
    make("td", { class: "wide" }, table.copy && table.rows_estimated
      ? `${number(table.rows_copied)} of ${number(table.rows_estimated)}` : number(table.rows_copied)),
    status.reads_topics ? make("td", { class: "wide" }, number(table.lag_messages)) : null,
    make("td", { class: "wide" }, number(table.table_version)), make("td", { class: "wide" }, number(table.files)),
    make("td", { class: "wide" }, bytes(table.file_bytes)), make("td", { class: "wide" }, percent(table.deleted_row_ratio))));
  return make("section", { "aria-label": "tables" }, seek(status), rows.length ? grid(heads, rows, wanted) : null, pager(status));
}
