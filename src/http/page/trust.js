/* Whether the lake can be trusted: what was verified, the states that are kept, and the tables whose events all are. */
const VERDICTS = { equal: "ok", different: "error", unverified: "warn" };

/* What is asked of the lake is asked now and then only; more often while something is on its way. */
let lately = {};
async function askLately(path) {
  const known = lately[path], waits = known && known.answer && known.answer.asked && known.answer.asked.length !== 0;
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
    : row.difference === "missing" ? `${row.key}: missing in the lake`
    : row.difference === "repeated" ? `${row.key}: more than once in the lake` : `${row.key}: only in the lake`;
  return told.length ? make("ul", { class: "examples" }, ...told.map((row) => make("li", {}, text(row))),
    report.differing > told.length ? make("li", { class: "soft" }, `and ${number(report.differing - told.length)} more`) : null) : null;
}

const repair = (table) => `\`sooner verify ${table} --repair\` has what still differs copied again.`;

const verifyAll = () => deed("/api/v1/verifications", {}, "Asked for a verification of all tables: it is made beside the stream.");

function verifications(answer, control) {
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
    chip("different", counts.different), chip("unverified", counts.unverified), chip("equal", counts.equal), chip("never verified", answer.never),
    control ? make("button", { onclick: verifyAll, disabled: answer.asked ? "" : null }, answer.asked ? "Verifying" : "Verify all") : null),
    answer.failed ? make("p", { class: "error" }, `The last one that was asked for came to nothing: ${answer.failed}`) : null,
    rows.length ? grid(heads, rows) : make("p", { class: "soft" },
      "No table was verified yet: `sooner verify` compares tables with their source, row by row, and leaves its report here."),
    all > rows.length ? make("p", { class: "soft" }, `These ${rows.length} are the worst; of those that are equal, the ones verified longest ago.`) : null,
    counts.different ? make("p", {}, "What differs is on each table’s page, with what to do.") : null);
}

/* Asks for a cut, or drops one, and looks again. */
async function cutting(path, body, told, mayBeNone) {
  try {
    const answer = await post(path, body);
    // Why a cut was not made is forgotten also where there is none to be dropped.
    if (answer.error && !(mayBeNone && answer.error === "there is no such cut")) say(`${answer.error}. To do: ${answer.remedy}.`, "error");
    else say(told, "soft");
  } catch (error) { say(`No answer: ${error.message}`, "error"); }
  lately = {};
  loop();
}

function newCut() {
  const field = (id, text, more) => make("label", {}, `${text} `, make("input", { id, autocomplete: "off", ...more }));
  return make("form", { class: "bar", "data-stays": "cut", onsubmit: (event) => {
    event.preventDefault();
    const name = $("cut-name").value, keep = $("cut-keep").value, moment = $("cut-at").value.trim();
    const tables = $("cut-tables").value.split(/[\s,]+/).filter((table) => table);
    cutting("/api/v1/cuts", { name, keep, tables, at: moment || "now" }, `Asked for the cut ${name}: ${moment && moment !== "now"
      ? "one that has passed is looked for in the tables’ logs" : "it is made between two transactions"}.`);
    $("cut-name").value = $("cut-at").value = $("cut-tables").value = "";
  } }, field("cut-name", "A cut named", { required: "", placeholder: "q3" }),
    field("cut-at", "at", { placeholder: "now", title: "now, an LSN such as 0/16B3748, or a UTC time such as 2026-01-31T22:00:00Z; past or to come" }),
    field("cut-tables", "of", { placeholder: "all tables", title: "tables as schema.table, apart by commas; all if left empty" }),
    field("cut-keep", "kept for", { placeholder: "7y" }),
    make("button", {}, "Make it"));
}

function cuts(answer, control) {
  const head = make("h2", {}, answer.cuts ? `Cuts (${number(answer.cuts.length)})` : "Cuts");
  if (answer.error) return make("section", { "aria-label": "cuts" }, head, make("p", { class: "error" }, `${answer.error}. To do: ${answer.remedy}.`));
  if (!answer.cuts) return make("section", { "aria-label": "cuts" }, head, make("p", { class: "soft" }, "This process has no lake: the sink's listener knows of cuts."));
  const heads = ["cut", "complete to", { name: "committed", class: "left wide" }, "tables", { name: "kept until", class: "left" }];
  const rows = answer.cuts.map((cut) => make("tr", {}, make("td", {}, make("a", { href: `#:trust/${cut.name}` }, cut.name)),
    make("td", {}, cut.lsn), make("td", { class: "left wide" }, `${at(cut.commit_micros)} UTC`), make("td", {}, number(cut.tables)),
    make("td", { class: "left wrap" }, cut.until_millis ? `${at(cut.until_millis * 1000)} UTC` : "it is dropped")));
  return make("section", { "aria-label": "cuts" }, head, make("p", { class: "soft" },
    "All tables as one transaction saw them; these versions stay readable, whatever retention says."),
    ...answer.failed.map((failure) => make("div", { class: "problem error" }, make("div", {}, make("strong", {}, `${failure.name} was not made`),
      make("p", {}, `${failure.error.what}: ${failure.error.why}`), make("p", {}, `To do: ${failure.error.remedy}.`)),
      control ? make("button", { "aria-label": `Forget ${failure.name}`,
        onclick: () => cutting(`/api/v1/cuts/${failure.name}/drop`, {}, `Forgot ${failure.name}.`, true) }, "Forget it") : null)),
    answer.asked.length ? make("p", {}, `Asked for, and not made yet: ${answer.asked.join(", ")}.`) : null,
    rows.length ? grid(heads, rows) : null, control ? newCut() : null);
}

function histories(answer) {
  if (answer.count === null) return null;
  const rows = answer.histories.map((history) => make("tr", {},
    make("td", {}, make("a", { href: `#${encodeURIComponent(history.table)}` }, history.table)),
    make("td", {}, number(history.version)), make("td", { class: "left wrap" }, history.keep_history || "for ever",
      history.untrimmed ? make("span", { class: "warn", title: `To do: ${history.untrimmed.remedy}` }, `: not removed yet: ${history.untrimmed.why}`) : null),
    make("td", { class: "left wrap wide" }, history.from ? moment(history.from) : "its first copy"),
    make("td", { class: "left path" }, history.trouble || history.location)));
  return make("section", { "aria-label": "histories" }, make("h2", {}, `Histories (${number(answer.count)})`),
    rows.length ? grid(["table", "version", { name: "kept", class: "left" }, { name: "whole since", class: "left wide" }, { name: "every event is at", class: "left" }], rows) : make("p", { class: "soft" },
      "No table keeps all of its events: write = [\"mirror\", \"history\"] in a [[table]] has it do so."),
    answer.count > rows.length ? make("p", { class: "soft" }, `The first ${rows.length} of ${number(answer.count)}.`) : null);
}

/* What of trust there is, in a few words, each a way to its section. */
function overview(verified, made, reported, erased, held, trail) {
  const tile = (label, name, value, note) => {
    const to = (event) => {
      event.preventDefault();
      const section = document.querySelector(`section[aria-label="${label}"]`);
      if (section) section.scrollIntoView();
    };
    return make("li", {}, make("a", { href: "#:trust", onclick: to }, name), make("b", {}, value), note ? make("span", { class: "soft" }, note) : null);
  };
  const counts = verified.counts || {}, runs = Array.isArray(reported) ? reported : [], last = (made.cuts || [])[0];
  const failing = runs.filter((report) => report.latest && report.latest.state === "failed").length;
  const next = runs.map((report) => report.next_due).filter((due) => due).sort()[0];
  const inForce = (held.holds || []).filter((hold) => hold.in_force).length, entries = trail && trail.head ? Number(trail.head.split(":")[0]) : 0;
  const unknown = dotted("warn", "not known");
  const equal = dotted(counts.equal && counts.equal === verified.tables ? "ok" : "soft", `${number(counts.equal)} equal`);
  return make("ol", { class: "hops", "aria-label": "overview" },
    tile("verifications", "Verified", verified.error ? unknown : counts.different ? dotted("error", `${number(counts.different)} differ`)
      : counts.unverified ? dotted("warn", `${number(counts.unverified)} unverified`) : equal, `of ${number(verified.tables)} tables`),
    made.cuts === null ? null : tile("cuts", "Cuts", made.error ? unknown : number(made.cuts.length), last ? `the last at ${at(last.commit_micros)} UTC` : null),
    tile("reports", "Reports", reported.error ? unknown : failing ? dotted("error", `${number(failing)} failed`) : number(runs.length),
      next ? `next ${moment(next)}` : null),
    erased.count === null ? null : tile("erasures", "Erasures", erased.error ? unknown : erased.failed.length
      ? dotted("error", `${number(erased.failed.length)} not made`) : number(erased.count),
      !erased.error && erased.asked.length ? `${number(erased.asked.length)} on the way` : null),
    held.holds === null ? null : tile("holds", "Legal holds", held.error ? unknown : number(inForce), "in force"),
    tile("audit", "Audit chain", trail === null ? dotted("soft", "none") : trail.error ? unknown : chainState(), entries ? `${number(entries)} entries` : null));
}

async function drawTrust(control) {
  const [verified, asked, made, kept, reported, erased, held, trail] = await Promise.all([ask("/api/v1/verifications"), ask("/api/v1/tasks"),
    ...["cuts", "histories", "reports", "erasures", "holds", auditPath()].map((name) => askLately(`/api/v1/${name}`))]);
  if (trail && trail.head && !chain.at && !chain.isAsked && Number(trail.head.split(":")[0]) <= CHECKED_AT_ONCE) setTimeout(checkChain);
  return [overview(verified, made, reported, erased, held, trail), verifications(verified, control), cuts(made, control), reports(reported, control),
    tasks(asked, control), erasures(erased, control), holds(held, control), audit(trail, control), histories(kept)];
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
    control ? make("div", { class: "bar" }, ...cutVerbs(name), make("button", { onclick: drop }, "Drop it")) : null), cutReading(name)];
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
    ...(answer.write && answer.write.includes("history") ? historyQuery(answer.table) : []),
    control && answer.write ? tableVerbs(answer.table) : null,
    report ? examples(report) : null, report && report.verdict === "different" ? make("div", { class: "bar" },
      make("span", {}, repair(answer.table)),
      control ? make("button", { onclick: () => verb(answer.table, "copy") }, "Copy it again now") : null) : null,
    ...(control && answer.write ? eventVerbs(answer.table, answer.write) : []));
}
