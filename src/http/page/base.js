"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined).map((child) =>
    child instanceof Node ? child : String(child)));
  return element;
};
const lsn = (text) => { const [high, low] = (text || "0/0").split("/").map((part) => BigInt("0x" + part));
  return (high << 32n) + low; };
const bytes = (count) => { if (count === null || count === undefined) return "–"; let value = Number(count);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) { if (value < 1024) return `${+value.toFixed(1)} ${unit}`; value /= 1024; }
  return `${+value.toFixed(1)} TiB`; };
const number = (value) => value === null || value === undefined ? "–" : Number(value).toLocaleString("en");
const seconds = (value) => value === null || value === undefined ? "–" : value < 120 ? `${value.toFixed(1)} s`
  : value < 7200 ? `${(value / 60).toFixed(0)} min` : value < 172800 ? `${(value / 3600).toFixed(0)} h` : `${(value / 86400).toFixed(0)} d`;
const percent = (share) => share === null || share === undefined ? "–" : `${(share * 100).toFixed(0)}%`;
const at = (micros) => new Date(micros / 1000).toISOString().replace("T", " ").slice(0, 19);
const behind = (end, position) => { const lag = lsn(end) - lsn(position); return bytes(lag > 0n ? lag : 0n); };

/* Makes a node's children what is wanted, and leaves alone what is so already: what is focused, selected, typed or
   scrolled stays, whatever is drawn again. Forms are told from others by data-stays: what appears or goes before one
   leaves it alone. */
function settle(parent, wanted) {
  const stays = (node) => node && node.dataset && node.dataset.stays;
  wanted.forEach((want, index) => {
    let is = parent.childNodes[index];
    if (stays(want)) {
      const kept = [...parent.childNodes].slice(index).find((node) => stays(node) === stays(want));
      while (kept && is !== kept) { is.remove(); is = parent.childNodes[index]; }
    } else if (stays(is) && wanted.slice(index).some((later) => stays(later) === stays(is))) {
      parent.insertBefore(want, is);
      return;
    }
    if (!is) { parent.append(want); return; }
    if (is.nodeName !== want.nodeName || (is.dataset && is.dataset.key !== want.dataset.key)) { is.replaceWith(want); return; }
    if (is.nodeType === Node.TEXT_NODE) { if (is.data !== want.data) is.data = want.data; return; }
    for (const name of is.getAttributeNames()) {
      if (!want.hasAttribute(name) && name !== "open") is.removeAttribute(name);
    }
    for (const name of want.getAttributeNames()) {
      if (is.getAttribute(name) !== want.getAttribute(name)) is.setAttribute(name, want.getAttribute(name));
    }
    for (const event of ["onclick", "oninput", "onchange", "onsubmit"]) is[event] = want[event];
    settle(is, [...want.childNodes]);
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

async function send(path, options) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { ...options, headers: { ...headers, ...(options || {}).headers } });
  $("login").hidden = answer.status !== 401;
  if (answer.status === 401) throw new Error("a token is needed");
  return answer;
}

const ask = async (path, options) => (await send(path, options)).json();
const post = (path, body) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

let silence = 0;
function say(text, kind) {
  $("answer").textContent = text;
  $("answer").className = kind;
  $("answer").hidden = !text;
  clearTimeout(silence);
  silence = setTimeout(() => { $("answer").hidden = true; }, 15000);
}

async function verb(table, name) {
  const path = table ? `/api/v1/tables/${encodeURIComponent(table)}/${name}` : `/api/v1/${name}`;
  try {
    const answer = await post(path, {});
    if (answer.error) say(`${answer.error}. To do: ${answer.remedy}.`, "error");
    else say(`Asked to ${name} ${table || "the pipeline"}.`, "soft");
  } catch (error) { say(`No answer: ${error.message}`, "error"); }
}

/* A table of data: heads are names, or objects with name, class, title, and for what can be sorted by, sort. */
function grid(heads, rows, look) {
  const head = (of) => typeof of === "string" ? { name: of } : of;
  const sorted = (of) => {
    if (!look || !of.sort) return null;
    return look.sort === of.sort ? (of.ascends ? "ascending" : "descending")
      : look.sort === `-${of.sort}` ? (of.ascends ? "descending" : "ascending") : null;
  };
  const turn = (of) => () => {
    look.sort = look.sort === of.sort ? `-${of.sort}` : look.sort === `-${of.sort}` && look.usual ? look.usual : of.sort;
    look.offset = 0;
    loop();
  };
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads.map(head).map((of) =>
    make("th", { scope: "col", class: of.class, title: of.title, "aria-sort": sorted(of) },
      look && of.sort ? make("button", { onclick: turn(of) }, of.name) : of.name)))), make("tbody", {}, ...rows)));
}
