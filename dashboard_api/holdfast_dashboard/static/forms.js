// Forms in dialogs: one place for fields, refusals shown where they happened, and sending once.

import { Refusal } from "./api.js";
import { button, h, put } from "./dom.js";
import { wayIn } from "./session.js";

let numbered = 0;

/** Nothing has the focus: who uses a keyboard would begin at the top of the page again. */
const isLost = () => document.activeElement === null || document.activeElement === document.body;

/** A labelled field. `input` is an input, select or textarea; `name` is the API's name of it. */
export function field(name, label, input, hint) {
  const id = `field-${(numbered += 1)}`;
  input.id = id;
  input.name = name;
  const notes = [hint && h("small", { id: `${id}-hint` }, hint), h("small", { id: `${id}-error`, class: "error" })];
  input.setAttribute("aria-describedby", notes.filter(Boolean).map((note) => note.id).join(" "));
  return h("div", { class: "field" }, h("label", { for: id }, label), input, notes);
}

/** Put a refusal's words beside the fields that they speak of; what is left is returned as one text. */
function blame(form, refusal) {
  const left = [];
  for (const { field: name, message } of refusal.errors ?? []) {
    const input = [...form.elements].find((element) => element.name === name && element.type !== "radio");
    const note = input && document.getElementById(`${input.id}-error`);
    if (note) {
      note.textContent = `${name} ${message}`;
      input.setAttribute("aria-invalid", "true");
    } else {
      left.push(`${name} ${message}`);
    }
  }
  return [refusal.message, ...left].join(" ");
}

function unblame(form) {
  for (const note of form.querySelectorAll(".field .error")) note.textContent = "";
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

/**
 * A dialog with a form. `send(form)` returns a promise; it closes when that is kept, and shows a Refusal when broken.
 * Text that is typed stays until it is sent or put away.
 */
export function formDialog({ title, body, submit, send, danger = false }) {
  const error = h("div", { class: "refusal", role: "alert" });
  const go = h("button", { type: "submit", class: danger ? "danger" : "primary" }, submit);
  const heading = h("h2", { id: `dialog-${(numbered += 1)}` }, title);
  const form = h("form", { novalidate: true }, heading, body, error,
    h("div", { class: "actions" }, button("Cancel", () => dialog.close()), go));
  const dialog = h("dialog", { "aria-labelledby": heading.id }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (go.disabled) return;
    unblame(form);
    put(error);
    go.disabled = true;
    go.setAttribute("aria-busy", "true");
    try {
      await send(form);
      dialog.close();
    } catch (refusal) {
      if (!(refusal instanceof Refusal)) throw refusal;
      if (refusal.code !== "stayed") put(error, refusal.loggedOut ? h("p", {}, loggedOut()) : h("p", {}, blame(form, refusal)), more(refusal));
    } finally {
      go.disabled = false;
      go.removeAttribute("aria-busy");
      // A button that is disabled loses the focus.
      if (dialog.open && isLost()) (form.querySelector("[aria-invalid]") ?? go).focus();
    }
  });
  const opener = document.activeElement;
  dialog.addEventListener("close", () => {
    dialog.remove();
    // What opened it may be disabled by now, or gone: then the focus goes to what stands beside it.
    if (isLost()) (opener?.parentElement?.querySelector("button:enabled:not([hidden])") ?? document.getElementById("page")).focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  (form.querySelector("[autofocus]") ?? form.querySelector("input, textarea, select"))?.focus();
  return dialog;
}

function more(refusal) {
  return refusal.unknown && h("p", {}, "It may have been carried out or not: what the page shows next tells."
    + " Sending the same again is safe, it counts once.");
}

/** What a form says to who is logged out. In another tab, or what was typed would be lost. */
export function loggedOut() {
  return ["You are logged out. ", h("a", { href: wayIn(), target: "_blank", rel: "noopener" }, "Log in in another tab"),
    ", then come back: what you typed stays."];
}

/** Nothing was sent, and the form stays as it is. */
export const stayed = () => new Refusal("", { code: "stayed" });

/** Ask yes or no; resolves to whether it was yes. */
export function confirmDialog({ title, body, yes, no = "Back" }) {
  return new Promise((resolve) => {
    const heading = h("h2", { id: `dialog-${(numbered += 1)}` }, title);
    const dialog = h("dialog", { "aria-labelledby": heading.id, role: "alertdialog" }, heading, body,
      h("div", { class: "actions" },
        button(no, () => dialog.close(), { autofocus: true }),
        button(yes, () => dialog.close("yes"), { class: "danger" })));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Ask for a reason and send it. */
export function reasonDialog({ title, words, submit, required = false, send, danger }) {
  const reason = h("textarea", { rows: 2, maxlength: 1000, required, autofocus: true });
  return formDialog({
    title, submit, danger,
    body: [words && h("p", {}, words), field("reason", required ? "Reason" : "Reason (optional)", reason)],
    send: () => {
      const text = reason.value.trim();
      if (required && !text) throw missing("reason");
      return send(text ? { reason: text } : {});
    },
  });
}

/** A field that has to be filled in is not. */
export function missing(name) {
  return new Refusal("Please fill in what is missing.", { status: 422, code: "invalid_request",
    errors: [{ field: name, message: "is required" }] });
}
