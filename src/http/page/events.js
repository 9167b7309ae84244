const GRAVE = { parked: "error", failed: "error", interrupted: "warn", waiting: "warn", paused: "warn",
  report_failed: "error", history_kept: "warn" };

function events(entries, table) {
  return make("section", { "aria-label": "events" }, make("h2", {}, "Events"), entries.length ? null
    : make("p", { class: "soft" }, "Nothing has happened yet."), make("ol", { class: "events" }, ...entries.map((entry) => make("li", {},
    make("time", {}, at(entry.at_micros)), make("strong", { class: GRAVE[entry.kind] || "" }, entry.kind.replaceAll("_", " ")),
    make("span", {}, entry.table && entry.table !== table ? `${entry.table}: ` : "", entry.what, entry.action ? ` — ${entry.action}` : "")))));
}
