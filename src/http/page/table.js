function facts(status) {
  const complete = status.watermark_micros ? at(status.watermark_micros) : null;
  const facts = [["Phase", phase(status)], ["Lag", seconds(status.lag_seconds)],
    ["Complete to", complete ? complete.slice(11) : "–", complete ? `UTC on ${complete.slice(0, 10)}, ${status.watermark_lsn}` : null],
    ["Events", number(status.events), "since the process started"], ["Version in the lake", number(status.table_version)],
    ["Files", number(status.files), `${bytes(status.file_bytes)}, ${percent(status.deleted_row_ratio)} dead rows`]];
  return make("ol", { class: "hops" }, ...facts.map(([label, value, note]) => make("li", {},
    make("span", { class: "soft" }, label), make("b", {}, value), note ? make("span", { class: "soft" }, note) : null)));
}

function queries(mirror, history) {
  const location = mirror || history;
  if (!location) return null;
  return make("section", { "aria-label": "queries" }, make("h2", {}, "Read it"), make("pre", { tabindex: "0" },
    `-- DuckDB\nSELECT * FROM delta_scan('${location.replaceAll("'", "''")}') LIMIT 10;\n\n` +
    `# Spark\nspark.read.format("delta").load(${JSON.stringify(location)}).show()\n\n` +
    `# Polars\npolars.scan_delta(${JSON.stringify(location)}).head(10).collect()`),
    history ? make("p", { class: "soft" }, mirror ? `Every event is kept at ${history}. ` : "Every event is kept there. ",
      "`sooner history TABLE --as-of TIME` prints how the table was.") : null);
}

/* What is wrong with one table; what is wrong with the others is not told beside it. */
function ownProblems(health, name, status) {
  const own = status.error ? [{ name, health: status.phase === "parked" ? "error" : "warn",
    reason: `${status.error.what}: ${status.error.why}`, remedy: status.error.remedy }] : [];
  const concerns = (check) => !check.name.includes(".") || check.name === `history of ${name}`;
  const all = health.checks.filter((check) => concerns(check) && check.health !== "ok");
  return own.length + all.length ? problems({ ...health, checks: [...own, ...all], ill: own.length + all.length }) : null;
}

/* A table's columns, from Postgres to the lake. They are asked for now and then only: the lake is asked for them. */
let shape = { name: "", at: 0, answer: null };
async function askShape(name) {
  if (shape.name !== name || Date.now() - shape.at > 30000) {
    shape = { name, at: Date.now(), answer: await ask(`/api/v1/tables/${encodeURIComponent(name)}/schema`) };
  }
  return shape.answer;
}

function columns(schema) {
  if (schema.error) return make("section", {}, make("h2", {}, "Columns"), make("p", { class: "soft" }, `${schema.error}. To do: ${schema.remedy}.`));
  const keys = schema.columns.filter((column) => column.key).length;
  const typed = (name, nullable) => name ? [name, nullable === false ? make("span", { class: "soft" }, " not null") : null] : ["–"];
  const cell = (...parts) => make("td", { class: "left wrap" }, ...parts);
  const has = (name) => schema.columns.some((column) => column[name]);
  const parts = [
    ["column", (column) => make("td", {}, column.name, column.key ? make("span", { class: "soft" }, keys > 1 ? ` key ${column.key}` : " key") : null,
      column.generated ? make("span", { class: "soft" }, " generated") : null)],
    ["Postgres", has("postgres_type") && ((column) => cell(...typed(column.postgres_type, column.nullable)))],
    ["Avro", has("avro_type") && ((column) => make("td", { class: "left wrap wide" }, column.avro_type || "–")), "wide"],
    ["Delta", has("delta_type") && ((column) => cell(...typed(column.delta_type, column.delta_nullable),
      column.lake_name ? make("span", { class: "soft" }, ` as ${column.lake_name}`) : null))],
    ["mask", has("mask") && ((column) => cell(column.mask || ""))],
    ["odd values", has("policy") && ((column) => cell(column.policy || ""))],
  ].filter(([, draw]) => draw);
  const titles = { mask: "what becomes of all values before they leave the process that reads Postgres",
    "odd values": "what becomes of values that their target cannot hold, such as infinity" };
  const hint = schema.lake_trouble ? `The lake does not say what it has: ${schema.lake_trouble}`
    : has("delta_type") || !has("postgres_type") ? null : "What the lake has is not known here.";
  return make("section", { "aria-label": "columns" }, make("h2", {}, `Columns (${schema.columns.length})`),
    grid(parts.map(([name, , wide]) => ({ name, class: `left ${wide || ""}`, title: titles[name] })), schema.columns.map((column) =>
      make("tr", {}, ...parts.map(([, draw]) => draw(column))))),
    schema.not_sent.length ? make("p", { class: "soft" }, `Postgres does not send ${schema.not_sent.join(", ")}.`) : null,
    hint ? make("p", { class: "soft" }, hint) : null);
}

/* A row from hop to hop: what is wrong first, then what is known. */
function followed(answer) {
  if (answer.error) return [make("p", { class: "error" }, `${answer.error}. To do: ${answer.remedy}.`)];
  const { verdict } = answer, hops = ["postgres", "stream", "kafka", "lake"].filter((name) => answer[name]);
  const known = (hop) => Object.entries(hop).filter(([name, value]) => name !== "problem" && value !== null && value !== "")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
  return [make("div", { class: `problem ${verdict.outcome === "up_to_date" ? "ok" : "warn"}` }, make("div", {},
    make("strong", {}, verdict.sentence), verdict.remedy ? make("p", {}, `To do: ${verdict.remedy}.`) : null)),
    make("ol", { class: "events" }, ...hops.map((name) => make("li", {}, make("strong", {}, name), make("span", { class: "told" },
      answer[name].problem ? make("span", { class: "warn" }, `${answer[name].problem.reason}. `) : null, known(answer[name])))))];
}

/* The row of a table that somebody asked for last, and what came of it. */
let row = { table: "", parts: [] };
async function follow(table, key) {
  const mine = row = { table, parts: ["following it…"] };
  loop();
  try { mine.parts = followed(await ask(`/api/v1/tables/${encodeURIComponent(table)}/trace?key=${encodeURIComponent(key)}`)); }
  catch (error) { mine.parts = [`no answer: ${error.message}`]; }
  loop();
}

function tracing(table) {
  const asked = (event) => { event.preventDefault(); follow(table, $("key").value); };
  return make("section", { "aria-label": "trace" }, make("h2", {}, "Why is a row old?"), make("form", { class: "bar", onsubmit: asked },
    make("label", {}, "Its key: ", make("input", { id: "key", autocomplete: "off", required: "", placeholder: "42 or tenant=7,id=42" })),
    make("button", {}, "Follow it")), make("div", { id: "traced", role: "status" },
    ...(row.table === table ? row.parts.map((part) => part instanceof Node ? part.cloneNode(true) : part) : [])));
}

function detail(answer, name, health, schema) {
  const status = answer.status;
  const head = make("section", {}, make("div", { class: "bar" }, make("h2", {}, name), make("a", { href: "#", class: "end" }, "All tables")),
    status ? facts(status) : make("p", {}, "There is no such table."));
  if (!status) return [head];
  return [head, ownProblems(health, name, status), columns(schema), trusted(answer, health.control), tracing(name), queries(answer.location, answer.history_location), events(answer.events, name)];
}
