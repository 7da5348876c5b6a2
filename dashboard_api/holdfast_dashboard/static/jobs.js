// The list of jobs, by status, type and text, a page at a time; and the form for a new one.

import { get, Keys, post, Refusal } from "./api.js";
import { badge, button, clock, h, jobLink, moment, put, table, time } from "./dom.js";
import { field, formDialog, missing } from "./forms.js";
import { notice } from "./notices.js";
import { session } from "./session.js";

const PAGE = 50;
const REFRESH_MS = 3_000;
const TYPING_MS = 250;
const STATUSES = ["queued", "running", "succeeded", "failed", "cancelled", "dead_letter"];

/** Whether its lease has run out: nobody heartbeats. */
export const isStale = (job) => job.status === "running" && Date.parse(job.leaseExpiresAt) <= clock.now();

/** A status in words; `stale` and `parked` where that is so. */
export function jobBadge(job) {
  if (job.status !== "running") return badge(job.status);
  if (isStale(job)) return [badge(job.status), " ", badge("stale")];
  return job.phase && job.phase !== "running" ? [badge(job.status), " ", badge(job.phase)] : badge(job.status);
}

function enqueueDialog() {
  const keys = new Keys();
  const type = h("input", { required: true, maxlength: 128, autocomplete: "off", spellcheck: "false" });
  const payload = h("textarea", { rows: 5, spellcheck: "false", class: "code" });
  payload.value = "{}";
  const priority = h("input", { type: "number", min: -1000, max: 1000, value: 0 });
  const attempts = h("input", { type: "number", min: 1, max: 100, value: 3 });
  const capabilities = h("input", { autocomplete: "off", spellcheck: "false" });
  const runAt = h("input", { type: "datetime-local", step: 1 });
  formDialog({
    title: "Enqueue a job", submit: "Enqueue",
    body: [
      field("type", "Type", type), field("payload", "Payload, a JSON object", payload),
      h("div", { class: "pair" }, field("priority", "Priority", priority, "Highest first."), field("maxAttempts", "Attempts at most", attempts)),
      field("requiredCapabilities", "Required capabilities (optional)", capabilities, "Separated by commas."),
      field("runAt", "Not before (optional)", runAt, "In your time."),
    ],
    send: async () => {
      if (!type.value.trim()) throw missing("type");
      // What cannot be read has no value; it must not be taken for a field that was left empty.
      const unreadable = [priority, attempts, runAt].filter((input) => input.validity.badInput);
      if (unreadable.length) {
        throw new Refusal("Not everything can be read.", { status: 422, code: "invalid_request",
          errors: unreadable.map((input) => ({ field: input.name, message: "cannot be read: complete it, or leave it empty" })) });
      }
      const body = { type: type.value.trim(), payload: parsed(payload.value), priority: Number(priority.value || 0),
        maxAttempts: Number(attempts.value || 3),
        requiredCapabilities: capabilities.value.split(",").map((name) => name.trim()).filter(Boolean) };
      if (runAt.value) body.runAt = new Date(runAt.value).toISOString();
      const job = await post("/api/queue/jobs", body, { key: keys.of(body) });
      notice("done", `Job …${job.id.slice(-12)} (${job.type}) is queued.`);
      location.assign(`/tasks/jobs/${job.id}`);
    },
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Refusal("The payload is not JSON.", { status: 422, code: "invalid_request",
      errors: [{ field: "payload", message: `cannot be read: ${error.message}` }] });
  }
}

/** Build the page. */
export function page(feed, main) {
  const wanted = new URLSearchParams(location.search);
  const status = h("select", { name: "status" }, h("option", { value: "" }, "any"),
    STATUSES.map((name) => h("option", { value: name }, name.replaceAll("_", " "))));
  const type = h("input", { name: "type", type: "search", maxlength: 128, autocomplete: "off", spellcheck: "false" });
  const text = h("input", { name: "q", type: "search", maxlength: 128, autocomplete: "off", spellcheck: "false" });
  for (const input of [status, type, text]) input.value = wanted.get(input.name) ?? "";
  const list = h("div", { id: "jobs" });
  const said = h("p", { class: "quiet", "aria-live": "polite" });
  const newer = button("Newer", () => { before.pop(); load(); }, { id: "newer" });
  const older = button("Older", () => { before.push(next); load(); }, { id: "older" });
  const enqueue = button("Enqueue…", enqueueDialog, { id: "enqueue", class: "primary" });
  put(main, h("section", { class: "card" },
    h("div", { class: "heading" }, h("h2", {}, "Jobs"), enqueue),
    h("form", { class: "filters", role: "search", onsubmit: (event) => { event.preventDefault(); first(); } },
      h("label", {}, "Status ", status), h("label", {}, "Type ", type), h("label", {}, "Text in type, id or worker ", text)),
    said, list, h("div", { class: "actions" }, newer, older)));

  /** Where each page that was turned to began; empty on the first. */
  const before = [];
  let next = null;
  let turn = 0;
  let typing = null;

  const query = () => Object.fromEntries([status, type, text].map((input) => [input.name, input.value.trim()]).filter(([, value]) => value));

  async function load({ quietly = false } = {}) {
    const mine = (turn += 1);
    if (!quietly) put(said, "Loading…");
    try {
      const cursor = before.at(-1);
      const found = await get(`/api/queue/jobs?${new URLSearchParams({ ...query(), limit: PAGE, ...(cursor ? { cursor } : {}) })}`);
      if (mine !== turn) return;
      next = found.nextCursor;
      const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      put(list, found.items.length ? table("Jobs, newest first", ["Job", "Type", "Status", "Attempt", "Priority", "Worker", "Created", "Changed"],
        found.items.map((job) => [jobLink(job.id), job.type, jobBadge(job), `${job.attempt} of ${job.maxAttempts}`, job.priority,
          job.claimedBy, time(job.createdAt), time(job.updatedAt)])) : h("p", {}, "No such job."));
      if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
      put(said, before.length > 0 && `Page ${before.length + 1}.`);
    } catch (refusal) {
      if (mine !== turn) return;
      put(list);
      next = null;
      put(said, `Not known: ${refusal.message} Tried last at ${moment(Date.now())}.`);
    }
    newer.disabled = before.length === 0;
    older.disabled = next === null;
  }

  function first() {
    before.length = 0;
    history.replaceState(null, "", `?${new URLSearchParams(query())}`);
    load();
  }

  status.addEventListener("change", first);
  for (const input of [type, text]) {
    input.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(first, TYPING_MS);
    });
  }
  const offer = () => { enqueue.hidden = !session.may("produce"); };
  session.addEventListener("change", offer);
  offer();
  setInterval(() => before.length === 0 && !document.hidden && load({ quietly: true }), REFRESH_MS);
  load();
}
