// Elements, texts and times. Text becomes a text node and nothing else: no module of ours makes HTML of text.

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const HIDDEN_IN_LINES = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const SVG = "http://www.w3.org/2000/svg";

/** How far the server's clock is ahead of this one, in milliseconds; see api.js. */
export const clock = { ahead: 0, now: () => Date.now() + clock.ahead };

function escaped(character) {
  const code = character.codePointAt(0);
  if (character === "\n") return "\\n";
  if (character === "\r") return "\\r";
  if (character === "\t") return "\\t";
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
}

/** A text with what would hide in it (control and direction characters) as escapes; `lines` keeps line breaks. */
export function visible(text, { lines = false } = {}) {
  return String(text).replace(lines ? HIDDEN_IN_LINES : HIDDEN, escaped);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : visible(child));
  }
  return element;
}

/** An element: `h("p", {class: "note"}, "text", other)`. `onclick: f` listens; null and false are left out. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Put these in the place of what an element holds. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : visible(child))));
  return element;
}

/** A button that is no part of a form. */
export function button(label, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, label);
}

const two = (number) => String(number).padStart(2, "0");

/** `02:13:40`, in the time of whoever looks. */
export function timeOfDay(when) {
  const date = new Date(when);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** `2026-02-20 02:13:40`, in the time of whoever looks. */
export function moment(when) {
  const date = new Date(when);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${timeOfDay(date)}`;
}

/** The same as an element that says the universal time when pointed at. */
export function time(iso) {
  return iso ? h("time", { datetime: iso, title: iso }, moment(iso)) : null;
}

/** `45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** Seconds from then until now, by the server's clock. */
export function since(iso) {
  return (clock.now() - Date.parse(iso)) / 1000;
}

/** `1 job`, `2 jobs`. */
export function count(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

/** A state in words and colour; the colour alone says nothing. */
export function badge(state, words = state) {
  return h("span", { class: `badge ${state}` }, words.replaceAll("_", " "));
}

/** An id, short, leading to its job. */
export function jobLink(id) {
  return h("a", { href: `/tasks/jobs/${encodeURIComponent(id)}`, title: id, class: "id" }, `…${id.slice(-12)}`);
}

/** A table; `rows` are arrays of cells. On a narrow screen each row becomes a card, so each cell knows its column. */
export function table(caption, columns, rows) {
  return h("div", { class: "scroll" }, h("table", {},
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, column)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, at) =>
      h("td", { "data-column": columns[at] }, cell ?? "–")))))));
}
