/* Many pipelines, the worst first: what `sooner fleet` knows of them. */
function pipelines(fleet) {
  const looks = { ok: "ok", warn: "warn", error: "error", silent: "error" };
  const note = (seen) => {
    const worst = seen.summary && seen.summary.worst;
    if (seen.silent_since_micros) return `no answer since ${at(seen.silent_since_micros)} UTC: ${seen.silent_because}`;
    return worst ? `${worst.name}: ${worst.reason}${seen.summary.ill > 1 ? `; and ${number(seen.summary.ill - 1)} more` : ""}` : null;
  };
  const parked = (summary) => (summary.phases || {}).parked || 0;
  const heads = ["pipeline", { name: "health", class: "left" }, { name: "lag", title: "the greatest of a table" },
    { name: "log kept", title: "log that the slot makes Postgres keep" }, { name: "tables", class: "wide" }, "parked",
    { name: "events/s", class: "wide" }];
  const rows = fleet.flatMap((seen) => {
    const summary = seen.summary || {}, why = note(seen), health = seen.health || "asking";
    const row = make("tr", { class: why ? "said" : null }, make("td", {}, make("a", { href: seen.page }, seen.name)),
      make("td", { class: "left" }, make("span", { class: `dot ${looks[health] || "soft"}` }, health)),
      make("td", {}, seconds(summary.lag_seconds)), make("td", {}, bytes(summary.slot && summary.slot.retained_bytes)),
      make("td", { class: "wide" }, number(summary.tables_count)),
      make("td", { class: parked(summary) ? "error" : "" }, seen.summary ? number(parked(summary)) : "–"),
      make("td", { class: "wide" }, seen.events_per_second === null ? "–" : number(Math.round(seen.events_per_second))));
    return why ? [row, make("tr", { class: "why" }, make("td", { colspan: heads.length, class: "soft" }, why))] : [row];
  });
  return make("section", { "aria-label": "pipelines" }, make("h2", {}, `Pipelines (${number(fleet.length)})`), grid(heads, rows));
}

async function drawFleet() {
  const fleet = await ask("/api/v1/pipelines");
  const count = (health) => fleet.filter((seen) => seen.health === health).length;
  const told = ["silent", "error", "warn", "ok"].filter(count).map((health) => `${count(health)} ${health}`);
  const worst = count("silent") + count("error") ? "error" : count("warn") ? "warn" : "ok";
  return { view: "", shown: [pipelines(fleet)], title: "sooner: pipelines", health: worst, state: told.join(", ") || "asking…" };
}
