/* Topics by what is unread, each with the share of its largest partition, which is 1/partitions where keys are even. */
const MOST_TOPICS = 300;
function topics(answer) {
  const heads = ["table", { name: "topic", class: "wide left" }, "partitions", { name: "offsets/s", class: "wide" }, "unread",
    { name: "end offsets", class: "wide" }, { name: "largest partition", title: "its share of all offsets" }];
  const rows = answer.topics.filter((row) => row.partitions);
  const uneven = (row) => row.partitions > 1 && row.largest_share > 2 / row.partitions;
  const letters = answer.dead_letters;
  return make("section", { "aria-label": "topics" }, make("h2", {}, `Topics (${number(answer.read)})`),
    grid(heads, rows.map((row) => make("tr", {},
      make("td", {}, make("a", { href: `#${encodeURIComponent(row.table)}` }, row.table)),
      make("td", { class: "wide left" }, row.topic), make("td", {}, row.partitions),
      make("td", { class: "wide" }, row.offsets_per_second === null ? "–" : number(+row.offsets_per_second.toFixed(1))),
      make("td", {}, number(row.unread)), make("td", { class: "wide" }, number(row.end_offsets)),
      make("td", { class: uneven(row) ? "warn" : "" }, percent(row.largest_share))))),
    answer.read > rows.length ? make("p", { class: "soft" }, `These ${rows.length} have most that is unread.`) : null,
    rows.some(uneven) ? make("p", {}, "A topic is uneven: `sooner topics advise` says which keys make it so, and what helps.") : null,
    make("p", { class: "soft" }, letters ? `Dead letters since the start: ${number(letters.messages)}, in ${letters.topic}.`
      : "A message that cannot be read stops its table: there is no dead_letter_topic."));
}

/* Messages that could not be read: in groups, and then one by one, with what is in them. */
function deadLetters(listed, control) {
  const when = (micros) => micros ? at(micros) : "–";
  const link = (id) => make("a", { href: `#:dead/${id}` }, id);
  const line = (...cells) => make("tr", {}, ...cells.map(([value, name]) => make("td", { class: name }, value)));
  const wide = (name) => ({ name, class: "wide" }), left = (name) => ({ name, class: "left" });
  if (listed.topic === null) {
    return make("section", {}, make("h2", {}, "Dead letters"), make("p", { class: "soft" },
      "Messages that cannot be read stop their table: dead_letter_topic of [kafka] is not set."));
  }
  return make("section", { "aria-label": "dead letters" }, make("h2", {}, `Dead letters (${number(listed.open)})`),
    listed.error ? make("p", { class: "error" }, `${listed.error}. To do: ${listed.remedy}.`)
      : !listed.open ? make("p", { class: "soft" }, `No open letters on ${listed.topic}.`) : null,
    listed.open ? grid(["topic", left("error"), "letters", wide("first"), wide("last"), "last letter"], listed.groups.map((group) =>
      line([group.topic], [group.code, "left wrap"], [number(group.count)], [when(group.first_micros), "wide"],
        [when(group.last_micros), "wide"], [link(group.last)]))) : null,
    listed.letters ? make("h2", {}, "The last ones") : null,
    listed.letters ? grid(["letter", left("from"), left("error"), wide("first")], listed.letters.map((letter) =>
      line([link(letter.id)], [`${letter.topic}/${letter.partition} offset ${letter.offset}`, "left wrap"], [letter.code, "left wrap"],
        [when(letter.written_micros), "wide"])))
      : listed.open ? make("p", {}, make("a", { href: "#:dead" }, "All dead letters")) : null,
    control && listed.open ? make("p", {}, make("button", { onclick: () => handle("replay", { all: true }) }, "Replay all")) : null);
}

function deadLetter(letter, control) {
  if (letter.error && !letter.id) return make("section", {}, make("p", {}, `${letter.error}. To do: ${letter.remedy}.`));
  const said = (name, part) => make("div", {}, make("h2", {}, `${name}, ${part ? bytes(part.bytes) : "none"}`),
    part && part.trouble ? make("p", { class: "warn" }, `Not decoded to its end: ${part.trouble}.`) : null,
    part ? make("pre", { tabindex: "0" }, [part.json === undefined ? null : JSON.stringify(part.json, null, 1), part.text, part.hex]
      .filter((text) => text).join("\n\n")) : null);
  return make("section", { "aria-label": "dead letter" }, make("h2", {}, `Dead letter ${letter.id}: ${letter.mark || "open"}`),
    make("div", { class: "problem warn" }, make("div", {}, make("strong", {}, letter.code), make("p", {}, letter.error),
      make("p", {}, `To do: ${letter.remedy}`))),
    make("p", {}, `From ${letter.topic}/${letter.partition} offset ${letter.offset}. `, make("a", { href: "#:dead" }, "All dead letters")),
    control && !letter.mark ? make("p", {}, make("button", { onclick: () => handle("replay", { id: letter.id }) }, "Replay"), " ",
      make("button", { onclick: () => confirm(`Drop letter ${letter.id}?`) && handle("drop", { id: letter.id }) }, "Drop")) : null,
    said("Key", letter.key), said("Value", letter.value));
}

async function handle(name, which) {
  const told = (outcome) => `${outcome.id} ${outcome.outcome.replace("_", " ")}${outcome.why ? `: ${outcome.why}` : ""}`;
  try {
    const answer = await post(`/api/v1/dead-letters/${name}`, which);
    if (answer.error) say(`${answer.error}. To do: ${answer.remedy}.`, "error");
    else say(answer.outcomes.slice(0, 20).map(told).join("; ") || "There was nothing to do.", "soft");
  } catch (error) { say(`No answer: ${error.message}`, "error"); }
  loop();
}
