/* Whether the lake can be trusted: what was verified, the states that are kept, and the tables whose events all are. */
const VERDICTS = { equal: "ok", different: "error", unverified: "warn" };

/* What is asked of the lake is asked now and then only; more often while something is on its way. */
let lately = {};
async function askLately(path) {
  const known = lately[path], waits = known && known.answer.asked && known.answer.asked.length !== 0;
  if (known && Date.now() - known.at < (waits ? 1500 : 15000)) return known.answer;
  const answer = await ask(path);
  lately[path] = { at: Date.now(), answer };
  return answer;
}

const ago = (micros) => micros ? `${at(micros)} UTC` : "never";

function verdict(report) {
  const text = report.verdict === "different" ? `${number(report.differing)} rows differ` : report.verdict;
  return make("span", { class: `dot ${VERDICTS[report.verdict]}` }, text);
}

function examples(report) {
  const told = report.examples || [];
  const text = (row) => row.difference === "values" ? `${row.key}: differs in ${(row.columns || []).join(", ")}`
    : row.difference === "missing" ? `${row.key}: missing in the lake` : `${row.key}: only in the lake`;
  return told.length ? make("ul", { class: "examples" }, ...told.map((row) => make("li", {}, text(row))),
    report.differing > told.length ? make("li", { class: "soft" }, `and ${number(report.differing - told.length)} more`) : null) : null;
}

const repair = (table) => `\`sooner verify ${table} --repair\` has what still differs copied again.`;

function verifications(answer) {
  if (answer.error) return make("section", {}, make("h2", {}, "Verified"), make("p", { class: "error" }, `${answer.error}. To do: ${answer.remedy}.`));
  const { counts, reports } = answer;
  const chip = (name, count) => count ? make("span", { class: `dot ${VERDICTS[name] || "soft"}` }, `${number(count)} ${name}`) : null;
  const heads = ["table", { name: "found", class: "left" }, { name: "when", class: "left" }, { name: "last equal", class: "left wide" },
    "rows", { name: "at", class: "wide" }, { name: "took", class: "wide" }];
  const rows = reports.map((report) => make("tr", {},
    make("td", {}, make("a", { href: `#${encodeURIComponent(report.table)}` }, report.table)), make("td", { class: "left wrap" }, verdict(report)),
    make("td", { class: "left wrap" }, ago(report.at_micros)), make("td", { class: "left wide" }, ago(report.equal_micros)),
    make("td", {}, number(report.rows)), make("td", { class: "wide" }, report.lsn || "–"),
    make("td", { class: "wide" }, seconds(report.millis / 1000))));
  const all = counts.equal + counts.different + counts.unverified;
  return make("section", { "aria-label": "verifications" }, make("div", { class: "bar" }, make("h2", {}, "Verified"),
    chip("different", counts.different), chip("unverified", counts.unverified), chip("equal", counts.equal), chip("never verified", answer.never)),
    rows.length ? grid(heads, rows) : make("p", { class: "soft" },
      "No table was verified yet: `sooner verify` compares tables with their source, row by row, and leaves its report here."),
    all > rows.length ? make("p", { class: "soft" }, `These ${rows.length} are the worst; of those that are equal, the ones verified longest ago.`) : null,
    counts.different ? make("p", {}, "What differs is on each table’s page, with what to do.") : null);
}

/* Asks for a cut, or drops one, and looks again. */
async function cutting(path, body, told) {
  try {
    const answer = await post(path, body);
    if (answer.error) say(`${answer.error}. To do: ${answer.remedy}.`, "error");
    else say(told, "soft");
  } catch (error) { say(`No answer: ${error.message}`, "error"); }
  lately = {};
  loop();
}

function newCut() {
  const field = (id, text, more) => make("label", {}, `${text} `, make("input", { id, autocomplete: "off", ...more }));
  return make("form", { class: "bar", onsubmit: (event) => {
    event.preventDefault();
    const name = $("cut-name").value, keep = $("cut-keep").value;
    cutting("/api/v1/cuts", keep ? { name, keep } : { name }, `Asked for the cut ${name}: it is made between two transactions.`);
    $("cut-name").value = "";
  } }, field("cut-name", "A cut named", { required: "", placeholder: "q3" }), field("cut-keep", "kept for", { placeholder: "7y" }),
    make("button", {}, "Make it"));
}

function cuts(answer, control) {
  const head = make("h2", {}, answer.cuts ? `Cuts (${number(answer.cuts.length)})` : "Cuts");
  if (answer.error) return make("section", {}, head, make("p", { class: "error" }, `${answer.error}. To do: ${answer.remedy}.`));
  if (!answer.cuts) return make("section", {}, head, make("p", { class: "soft" }, "This process has no lake: the sink's listener knows of cuts."));
  const heads = ["cut", "complete to", { name: "committed", class: "left wide" }, "tables", { name: "kept until", class: "left" }];
  const rows = answer.cuts.map((cut) => make("tr", {}, make("td", {}, make("a", { href: `#:trust/${cut.name}` }, cut.name)),
    make("td", {}, cut.lsn), make("td", { class: "left wide" }, `${at(cut.commit_micros)} UTC`), make("td", {}, number(cut.tables)),
    make("td", { class: "left wrap" }, cut.until_millis ? `${at(cut.until_millis * 1000)} UTC` : "it is dropped")));
  return make("section", { "aria-label": "cuts" }, head, make("p", { class: "soft" },
    "All tables as one transaction saw them; these versions stay readable, whatever retention says."),
    ...answer.failed.map((failure) => make("div", { class: "problem error" }, make("div", {}, make("strong", {}, `${failure.name} was not made`),
      make("p", {}, `${failure.error.what}: ${failure.error.why}`), make("p", {}, `To do: ${failure.error.remedy}.`)),
      control ? make("button", { "aria-label": `Forget ${failure.name}`,
        onclick: () => cutting(`/api/v1/cuts/${failure.name}/drop`, {}, `Forgot ${failure.name}.`) }, "Forget it") : null)),
    answer.asked.length ? make("p", {}, `Asked for, and not made yet: ${answer.asked.join(", ")}.`) : null,
    rows.length ? grid(heads, rows) : null, control ? newCut() : null);
}

function histories(answer) {
  if (answer.count === null) return null;
  const rows = answer.histories.map((history) => make("tr", {},
    make("td", {}, make("a", { href: `#${encodeURIComponent(history.table)}` }, history.table)),
    make("td", {}, number(history.version)), make("td", { class: "left path" }, history.trouble || history.location)));
  return make("section", { "aria-label": "histories" }, make("h2", {}, `Histories (${number(answer.count)})`),
    rows.length ? grid(["table", "version", { name: "every event is at", class: "left" }], rows) : make("p", { class: "soft" },
      "No table keeps all of its events: write = [\"mirror\", \"history\"] in a [[table]] has it do so."),
    answer.count > rows.length ? make("p", { class: "soft" }, `The first ${rows.length} of ${number(answer.count)}.`) : null);
}

async function drawTrust(control) {
  const [verified, made, kept] = await Promise.all([ask("/api/v1/verifications"), askLately("/api/v1/cuts"), askLately("/api/v1/histories")]);
  return [verifications(verified), cuts(made, control), histories(kept)];
}

async function drawCut(name, control) {
  const cut = await askLately(`/api/v1/cuts/${encodeURIComponent(name)}`);
  const back = make("a", { href: "#:trust", class: "end" }, "All cuts");
  const head = make("div", { class: "bar" }, make("h2", {}, `Cut ${name}`), back);
  if (cut.error) return [make("section", {}, head, make("p", { class: "error" }, `${cut.error}. To do: ${cut.remedy}.`))];
  if (cut.asked) return [make("section", {}, head, make("p", {}, "It is asked for, and not made yet."))];
  const rows = Object.entries(cut.tables).flatMap(([table, kinds]) => ["mirror", "history"].filter((kind) => kinds[kind]).map((kind) =>
    make("tr", {}, make("td", {}, make("a", { href: `#${encodeURIComponent(table)}` }, table)), make("td", { class: "left" }, kind),
      make("td", {}, number(kinds[kind].version)), make("td", { class: "left path" }, kinds[kind].url))));
  const drop = () => { if (confirm(`Drop the cut ${name}? What only it keeps is deleted.`)) {
    cutting(`/api/v1/cuts/${name}/drop`, {}, `Dropped the cut ${name}.`);
    location.hash = "#:trust";
  } };
  return [make("section", { "aria-label": "cut" }, head,
    make("p", {}, `Every transaction up to ${cut.lsn}, committed ${at(cut.commit_micros)} UTC, and none after it. `,
      cut.until_millis ? `Kept until ${at(cut.until_millis * 1000)} UTC.` : "Kept until it is dropped."),
    grid(["table", { name: "written as", class: "left" }, "version", { name: "at", class: "left" }], rows),
    make("p", { class: "soft" }, `\`sooner cut sql ${name} --engine spark\` prints how each table is read; duckdb, polars and trino, too.`),
    control ? make("p", {}, make("button", { onclick: drop }, "Drop it")) : null)];
}

/* How a table is written, and how it was verified last, for its own page. */
function trusted(answer, control) {
  const report = answer.verification;
  const written = { mirror: "its rows as they are", history: "every event" };
  if (!answer.write && !report) return null;
  return make("section", { "aria-label": "trust" }, make("h2", {}, "Trust"), make("ol", { class: "hops" },
    answer.write ? make("li", {}, make("span", { class: "soft" }, "Written as"), make("b", {}, answer.write.join(" and ")),
      make("span", { class: "soft" }, answer.write.map((way) => written[way]).join(", and "))) : null,
    make("li", {}, make("span", { class: "soft" }, "Verified"), make("b", {}, report ? verdict(report) : "never"),
      make("span", { class: "soft" }, report ? `${ago(report.at_micros)}${report.verdict === "equal" ? `, ${number(report.rows)} rows` : `; equal: ${ago(report.equal_micros)}`}`
        : "`sooner verify` compares it with its source"))),
    report && report.why ? make("p", { class: "warn" }, `Not verified: ${report.why}`) : null,
    report ? examples(report) : null, report && report.verdict === "different" ? make("div", { class: "bar" },
      make("span", {}, repair(answer.table)),
      control ? make("button", { onclick: () => verb(answer.table, "copy") }, "Copy it again now") : null) : null);
}
