function mark(view) {
  for (const link of document.querySelectorAll("nav a")) {
    const target = link.getAttribute("href").slice(1);
    const current = target === view || (target === "" && !view.startsWith(":")) || (target === ":kafka" && view.startsWith(":dead"))
      || (target === ":trust" && [":trust/", ":report/", ":erasure/"].some((start) => view.startsWith(start)));
    if (current) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
}

async function drawTable(name, health) {
  const [answer, schema] = await Promise.all([ask(`/api/v1/tables/${encodeURIComponent(name)}`), askShape(name)]);
  return detail(answer, name, health, schema);
}

async function draw() {
  const view = viewed();
  const [status, health] = await Promise.all([ask("/api/v1/summary"), ask("/api/v1/health?limit=5")]);
  if (view === "") await addTables(status, wanted, PAGE_ROWS);
  const letters = (path) => ask(`/api/v1/dead-letters${path}`);
  const shown = view === ":kafka"
    ? [problems(health), topics(await ask(`/api/v1/topics?limit=${MOST_TOPICS}`)), deadLetters(await letters("?limit=0"), false)]
    : view === ":dead" ? [deadLetters(await letters(""), health.control)]
    : view.startsWith(":dead/") ? [deadLetter(await letters(view.slice(5)), health.control)]
    : view === ":trust" ? await drawTrust(health.control)
    : view.startsWith(":trust/") ? await drawCut(view.slice(7), health.control)
    : view.startsWith(":report/") ? await drawReport(view.slice(8), health.control)
    : view.startsWith(":erasure/") ? await drawErasure(view.slice(9), health.control)
    : view === ":events" ? [events(await ask("/api/v1/events?limit=500"))]
    : view ? await drawTable(view, health)
    : [hops(status), problems(health), tables(status), events(await ask("/api/v1/events?limit=20"))];
  return { view, shown, title: `sooner: ${status.pipeline}`, health: status.health,
    state: `${status.health}, ${at(status.updated_micros)} UTC`, hasTopics: status.reads_topics };
}

let shownView = null;
function show(drawn) {
  document.title = $("name").textContent = drawn.title;
  $("state").textContent = drawn.state;
  $("state").className = `dot ${drawn.health}`;
  $("to-kafka").hidden = !drawn.hasTopics;
  mark(drawn.view);
  const focused = document.activeElement, text = focused && focused.textContent;
  const shown = drawn.shown.filter((part) => part);
  if (drawn.view === shownView) settle($("main"), shown); else $("main").replaceChildren(...shown);
  shownView = $("main").dataset.view = drawn.view;
  if (!text || (document.activeElement === focused && focused.textContent === text)) return;
  const again = [...$("main").querySelectorAll("a, button")].find((element) => element.textContent === text);
  if (again) again.focus({ preventScroll: true });
}

const isFleet = "fleet" in document.documentElement.dataset;
document.querySelector("nav").hidden = isFleet;
let timer = 0, turn = 0, last = null;
async function loop() {
  clearTimeout(timer);
  const mine = ++turn;
  try {
    const drawn = await (isFleet ? drawFleet() : draw());
    // Somebody has asked for something else meanwhile.
    if (mine !== turn) return;
    show(drawn);
    last = new Date();
  } catch (error) {
    if (mine !== turn) return;
    $("state").textContent = `no answer${last ? ` since ${at(last * 1000)} UTC` : ""}: ${error.message}`;
    $("state").className = "dot error";
  }
  clearTimeout(timer);
  timer = setTimeout(loop, document.hidden ? 15000 : 2000);
}
$("login").onsubmit = (event) => { event.preventDefault(); sessionStorage.setItem("token", $("token").value); loop(); };
addEventListener("hashchange", () => { say("", "soft"); scrollTo(0, 0); loop(); });
document.addEventListener("visibilitychange", loop);
loop();
