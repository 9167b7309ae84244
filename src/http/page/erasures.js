/* Erasures, by their certificates, and legal holds. No subject's value is ever told: its column is, and a hash. */
const millis = (time) => time ? `${at(time * 1000)} UTC` : "–";
const columnsOf = (subjects) => [...new Set((subjects || []).map((subject) => subject.table ? `${subject.table}.${subject.column}` : subject.column))].join(", ");
const toErasure = (name) => make("a", { href: `#:erasure/${encodeURIComponent(name)}` }, name);

function cleanness(erasure) {
  if (erasure.found_nothing) return dotted("warn", "nothing was found");
  if (erasure.clean) return dotted("ok", "nothing is left");
  return dotted("warn", erasure.remains && erasure.remains.found ? `${number(erasure.remains.found)} places keep something` : "something is left");
}

function newErasure() {
  const asked = (isDry) => {
    const subject = $("erase-subject").value.trim();
    if (!subject.includes("=")) { say("Name a subject as column=value, or schema.table.column=value.", "error"); return; }
    const column = subject.split("=")[0];
    if (!isDry && !confirm(`Erase every row with this ${column} from all files of the lake? It cannot be undone.`)) return;
    const wanted = {
      subjects: [subject], dry_run: isDry, drop_cuts: $("erase-cuts").checked, drop_reports: $("erase-reports").checked,
      allow_source: $("erase-source").checked,
    };
    deed("/api/v1/erasures", wanted, isDry ? "Asked what there is of the subject: every file is looked through."
      : "Asked for the erasure: it is made beside the stream.").then((answer) => {
      if (!answer) return;
      if (!isDry) $("erase-subject").value = "";
      location.hash = `#:erasure/${answer.name}`;
    });
  };
  const box = (id, text) => make("label", {}, make("input", { id, type: "checkbox" }), ` ${text}`);
  return make("form", { class: "bar", "data-stays": "erasure", onsubmit: (event) => { event.preventDefault(); asked(true); } },
    make("label", {}, "Rows where ", make("input", { id: "erase-subject", autocomplete: "off", required: "", placeholder: "email=jane@example.org" })),
    box("erase-cuts", "drop cuts that keep them"), box("erase-reports", "and results of reports"),
    box("erase-source", "although the source has them"),
    make("button", {}, "What is there?"), make("button", { type: "button", class: "error", onclick: () => asked(false) }, "Erase"));
}

const forgetErasure = (name) => deed(`/api/v1/erasures/${encodeURIComponent(name)}/forget`, {}, `Forgot ${name}.`);

function erasures(answer, control) {
  const head = make("h2", {}, answer.count === null || answer.error ? "Erasures" : `Erasures (${number(answer.count)})`);
  if (answer.error) return make("section", { "aria-label": "erasures" }, head, trouble(answer));
  if (answer.count === null) return null;
  const heads = ["certificate", { name: "outcome", class: "left" }, { name: "subjects by", class: "left" }, { name: "ended", class: "left wide" },
    "rows", { name: "files deleted", class: "wide" }];
  const rows = answer.erasures.map((erasure) => make("tr", {}, make("td", {}, toErasure(erasure.name)),
    make("td", { class: "left wrap" }, cleanness(erasure)), make("td", { class: "left wrap" }, columnsOf(erasure.subjects)),
    make("td", { class: "left wide" }, millis(erasure.ended_millis)), make("td", {}, number(erasure.rows)),
    make("td", { class: "wide" }, number(erasure.files_deleted))));
  return make("section", { "aria-label": "erasures" }, head,
    ...answer.failed.map((failure) => make("div", { class: "problem error" }, make("div", {}, make("strong", {}, `${failure.name} was not made`),
      make("p", {}, `${failure.error.what}: ${failure.error.why}`), make("p", {}, `To do: ${failure.error.remedy}.`)),
      control ? make("button", { "aria-label": `Forget ${failure.name}`, onclick: () => forgetErasure(failure.name) }, "Forget it") : null)),
    ...answer.asked.map((asked) => make("p", {}, `${asked.begun ? "Being made" : "Asked for"}: `, toErasure(asked.name), asked.dry_run ? ", a dry run." : ".")),
    ...answer.found.map((found) => make("p", {}, "Found by a dry run: ", toErasure(found.name), ".")),
    rows.length ? grid(heads, rows) : make("p", { class: "soft" },
      "Nothing was erased yet: an erasure takes the rows of a subject out of every file, and leaves a certificate of what was searched."),
    answer.count > rows.length ? make("p", { class: "soft" }, `The last ${rows.length} of ${number(answer.count)}.`) : null,
    control ? newErasure() : null);
}

const remaining = (left) => make("div", { class: `problem ${left.found ? "warn" : "soft"}` }, make("div", {},
  make("strong", {}, `${left.found ? "Remains" : "May remain"} in ${left.place}`),
  make("p", {}, `${left.why}${left.until ? `, until ${moment(left.until)}` : ""}. To do: ${left.to_do}.`)));

function foundByDryRun(found) {
  const held = (place) => [...new Set(place.held.flatMap((kept) => kept.holds))].map((name) => name.replace("legal=", "hold ")).join(", ");
  const box = (kind, what, ...more) => make("div", { class: `problem ${kind}` }, make("div", {}, make("strong", {}, what),
    ...more.map((text) => make("p", {}, text))));
  const heads = ["table", { name: "written as", class: "left" }, "rows readers see",
    { name: "others", title: "hidden, or in files of former versions" }, "files", { name: "kept by", class: "left" }];
  const rows = found.tables.map((place) => make("tr", {}, make("td", {}, place.table), writtenAs(place), make("td", {}, number(place.live_rows)),
    make("td", {}, number(place.other_rows)), make("td", {}, number(place.files)), make("td", { class: "left wrap" }, held(place) || "–")));
  const count = found.objects.length, list = found.objects.slice(0, 20);
  return [...found.refused_by.map((why) => box("error", "It would be refused", `${why}.`)),
    ...Object.entries(found.source_rows || {}).map(([table, rows]) => box("warn", `The source still has ${number(rows)} rows in ${table}`,
      "To do: delete them there first.")),
    rows.length ? grid(heads, rows) : make("p", {}, "No table of the lake has rows of the subject."),
    make("p", {}, `${number(count)} objects of the lake have the value’s bytes${count > list.length ? "; the first ones:" : count ? ":" : "."}`),
    count ? make("pre", { tabindex: "0" }, list.join("\n")) : null, ...[...found.held, ...found.beside].slice(0, 50).map(remaining)];
}

const writtenAs = (table) => make("td", { class: "left" }, table.is_history ? "history" : "mirror");

function certificateParts(it) {
  const fact = (label, value, note) => make("li", {}, make("span", { class: "soft" }, label), make("b", {}, value),
    note ? make("span", { class: "soft" }, note) : null);
  const sum = (of) => number(it.tables.reduce((sum, table) => sum + of(table), 0));
  const outcome = cleanness({ clean: it.clean, found_nothing: it.found_nothing, remains: { found: it.remains.filter((left) => left.found).length } });
  const subjects = it.subjects.slice(0, 50).map((subject) => make("tr", {}, make("td", {}, columnsOf([subject])),
    make("td", { class: "left path" }, subject.sha256)));
  const tables = it.tables.map((table) => make("tr", {}, make("td", {}, table.table), writtenAs(table), make("td", {}, number(table.rows)),
    make("td", {}, number(table.files_deleted.length)), make("td", { class: "wide" }, number(table.log_entries))));
  const short = it.search.values_by_column_only;
  return [make("ol", { class: "hops" }, fact("Outcome", outcome), fact("Rows erased", sum((table) => table.rows), "that readers saw"),
    fact("Files deleted", sum((table) => table.files_deleted.length), it.cuts_dropped.length ? `cuts dropped: ${it.cuts_dropped.join(", ")}` : null),
    fact("Searched", number(it.search.objects), `objects, ${bytes(it.search.bytes)}`), fact("Ended", at(it.ended_millis * 1000), "UTC"),
    fact("Complete to", it.complete_lsn || "–", it.complete_lsn ? "of the source’s log" : "the source was not asked")),
    make("h2", {}, "Subjects"), grid(["column", { name: "SHA-256 of salt and value", class: "left" }], subjects),
    tables.length ? make("h2", {}, "Tables") : null, tables.length ? grid(["table", { name: "written as", class: "left" }, "rows", "files deleted",
      { name: "log entries cleaned", class: "wide" }], tables) : null,
    make("h2", {}, "What remains"), it.remains.length ? null : make("p", { class: "soft" }, "Nothing that was searched holds a value."),
    ...it.remains.slice(0, 50).map(remaining),
    make("p", { class: "soft path" }, `Each object that was read is in ${it.search.list}, with its hash; all of them: ${it.search.sha256}. `,
      short ? `${number(short)} values were too short to be searched for in bytes. ` : null, `Written by ${it.written_by}.`)];
}

async function drawErasure(name, control) {
  const answer = await askLately(`/api/v1/erasures/${encodeURIComponent(name)}`);
  const head = make("div", { class: "bar" }, make("h2", {}, `${answer.found ? "Dry run" : "Erasure"} ${name}`),
    make("a", { href: "#:trust", class: "end" }, "All of Trust"));
  const parts = answer.error ? [trouble(answer)]
    : answer.asked ? [make("p", { role: "status" }, answer.dry_run ? "It is being looked for: every file is read."
      : "It is not made yet. Repeating it is safe, whenever the process ends.")]
    : answer.found ? [make("p", {}, `Rows by ${columnsOf(answer.subjects)}. Nothing was changed.`), ...foundByDryRun(answer.found)]
    : certificateParts(answer);
  const forget = () => { forgetErasure(name); location.hash = "#:trust"; };
  return [make("section", { "aria-label": "erasure" }, head, ...parts,
    control && (answer.found || answer.error) ? make("p", {}, make("button", { onclick: forget }, "Forget it")) : null)];
}

const keeps = (hold) => [...(hold.tables || []).map((table) => `table ${table}`), hold.cut ? `cut ${hold.cut}` : null,
  hold.subject ? `a subject by ${columnsOf([hold.subject])}` : null].filter((text) => text).join(", ");

function newHold() {
  const ids = ["hold-name", "hold-reason", "hold-what", "hold-until"];
  const field = (id, text, more) => make("label", {}, `${text} `, make("input", { id, autocomplete: "off", ...more }));
  const kinds = make("select", { id: "hold-kind" }, ...["table", "cut", "subject"].map((kind) => make("option", { value: kind }, kind)));
  const asked = (event) => {
    event.preventDefault();
    const [name, reason, what, until] = ids.map((id) => $(id).value.trim());
    const kind = $("hold-kind").value, kept = kind === "table" ? { tables: [what] } : { [kind]: what };
    deed("/api/v1/holds", { name, reason, until, ...kept }, `The hold ${name} is in force.`)
      .then((answer) => { if (answer) for (const id of ids) $(id).value = ""; });
  };
  return make("form", { class: "bar", "data-stays": "hold", onsubmit: asked }, field("hold-name", "A hold named", { required: "", placeholder: "case-7" }),
    make("label", {}, "keeps the ", kinds),
    make("input", { id: "hold-what", "aria-label": "what it keeps", autocomplete: "off", required: "", placeholder: "public.orders, or email=…" }),
    field("hold-reason", "because of", { required: "", placeholder: "litigation" }),
    field("hold-until", "until", { placeholder: "it is released", title: "a UTC time, such as 2030-12-31T00:00:00Z" }), make("button", {}, "Hold it"));
}

function release(name) {
  const reason = prompt(`Why does the hold ${name} no longer apply?`);
  if (reason) deed(`/api/v1/holds/${encodeURIComponent(name)}/release`, { reason }, `Released the hold ${name}.`);
}

function holdRow(hold, hasVerbs) {
  const end = hold.released ? `released ${millis(hold.released.at_millis)}: ${hold.released.reason}`
    : hold.until_millis ? `${hold.in_force ? "until" : "ended"} ${millis(hold.until_millis)}` : "until it is released";
  const soft = hold.in_force ? "" : " soft";
  return make("tr", {}, make("td", { class: soft }, hold.name), make("td", { class: `left wrap${soft}` }, keeps(hold)),
    make("td", { class: `left wrap wide${soft}` }, hold.reason), make("td", { class: `left wrap${soft}` }, end),
    hasVerbs ? make("td", { class: "left" }, hold.in_force
      ? make("button", { "aria-label": `Release ${hold.name}`, onclick: () => release(hold.name) }, "Release") : null) : null);
}

const MOST_HOLDS = 50;
function holds(answer, control) {
  if (answer.error) return make("section", { "aria-label": "holds" }, make("h2", {}, "Legal holds"), trouble(answer));
  if (answer.holds === null) return null;
  const all = [...answer.holds].sort((a, b) => Number(b.in_force) - Number(a.in_force)), shown = all.slice(0, MOST_HOLDS);
  const inForce = all.filter((hold) => hold.in_force).length, hasVerbs = control && inForce > 0;
  const heads = ["hold", { name: "keeps", class: "left" }, { name: "because of", class: "left wide" }, { name: "ends", class: "left" },
    hasVerbs ? { name: "now", class: "left" } : null].filter((of) => of);
  return make("section", { "aria-label": "holds" }, make("h2", {}, `Legal holds (${number(inForce)} in force)`),
    shown.length ? grid(heads, shown.map((hold) => holdRow(hold, hasVerbs))) : make("p", { class: "soft" },
      "Nothing is held: a hold keeps a table, a cut or a subject from vacuum and erasure, whatever else is said."),
    all.length > shown.length ? make("p", { class: "soft" }, `${shown.length} of ${number(all.length)}; \`sooner hold list\` has the others.`) : null,
    control ? newHold() : null);
}
