// What was said in answer to an action. A warning stays until somebody has put it away, on every page.

import { button, h, moment, put } from "./dom.js";

const KEPT = "holdfast.notices";
const MOST = 5;

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  } catch {
    return [];
  }
}

function write(notices) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(notices));
  } catch { /* then it lasts as long as the page */ }
  show(notices);
}

function show(notices) {
  put(document.getElementById("notices"), ...notices.map((notice, at) =>
    h("div", { class: `notice ${notice.kind}` },
      h("p", {}, `${notice.kind === "warning" ? "Warning: " : ""}${notice.text}`, h("small", {}, ` ${moment(notice.at)}`)),
      button("Dismiss", () => write(notices.filter((_, other) => other !== at))))));
}

/** `kind`: `done` or `warning`. */
export function notice(kind, text) {
  const kept = read().filter((known) => known.kind === "warning");
  write([{ kind, text, at: Date.now() }, ...kept].slice(0, MOST));
}

export const showNotices = () => show(read());
