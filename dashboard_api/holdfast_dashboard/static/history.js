// The audit log: who paused and resumed, when and why; and the way to take it along.

import { get } from "./api.js";
import { badge, button, h, put, table, time, visible } from "./dom.js";

const PAGE = 50;
const EXPORT_PAGE = 200;
const COLUMNS = ["When", "What", "Outcome", "Who", "Why", "Version", "Running then"];

/** Events as a table. */
export function eventTable(caption, events) {
  return table(caption, COLUMNS, events.map((event) => [
    time(event.createdAt),
    `${event.action}${event.mode ? ` (${event.mode})` : ""}${event.forceResume ? ", risk accepted" : ""}`,
    [badge(event.outcome), event.code && ` ${event.code}`],
    event.actor, event.reason, event.version,
    event.running === null ? null : `${event.running}${event.staleRunning ? ` and ${event.staleRunning} stale` : ""}`,
  ]));
}

const CSV = ["id", "createdAt", "control", "action", "outcome", "code", "mode", "reason", "actorUserId", "actor", "version",
  "forceResume", "resumeAt", "running", "staleRunning"];

/** One cell (RFC 4180). What a spreadsheet would take for a formula is kept a text by an apostrophe. */
function cell(value) {
  const text = visible(value ?? "");
  return `"${(/^[=+\-@]/.test(text) && typeof value === "string" ? `'${text}` : text).replaceAll('"', '""')}"`;
}

/** Events as CSV, with a line of names. */
export function asCsv(events) {
  return [CSV.join(","), ...events.map((event) => CSV.map((name) => cell(event[name])).join(","))].join("\r\n") + "\r\n";
}

function save(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** Build the page. */
export function page(feed, main) {
  const outcome = select("Outcome", "outcome", ["changed", "unchanged", "refused"]);
  const action = select("Action", "action", ["pause", "resume"]);
  const list = h("div", { id: "history" });
  const said = h("p", { "aria-live": "polite", class: "quiet" });
  const older = button("Older", () => load(true), { hidden: true, id: "older" });
  const exporting = [button("Export as CSV", () => take("csv"), { id: "export-csv" }),
    button("Export as JSON", () => take("json"), { id: "export-json" })];
  put(main, h("section", { class: "card" }, h("h2", {}, "History"),
    h("p", { class: "quiet" }, "Every pause and resume, refused ones too. The log cannot be changed."),
    h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() }, outcome, action),
    list, older, said, h("div", { class: "actions" }, exporting)));

  let events = [];
  let next = null;
  let turn = 0;
  const query = (extra) => {
    const chosen = Object.fromEntries([...main.querySelectorAll("select")].filter((one) => one.value).map((one) => [one.name, one.value]));
    return `/api/system/control-events?${new URLSearchParams({ ...chosen, ...extra })}`;
  };

  async function load(more) {
    const mine = (turn += 1);
    try {
      const found = await get(query({ limit: PAGE, ...(more && next ? { before: next } : {}) }));
      if (mine !== turn) return;
      events = more ? [...events, ...found.items] : found.items;
      next = found.nextBefore;
      older.hidden = next === null;
      put(list, events.length ? eventTable("Audit log, newest first", events) : h("p", {}, "No such event."));
      put(said);
    } catch (refusal) {
      if (mine === turn) put(said, `Not loaded: ${refusal.message}`);
    }
  }

  async function take(kind) {
    for (const one of exporting) one.disabled = true;
    const all = [];
    try {
      for (let before = null; ;) {
        const found = await get(query({ limit: EXPORT_PAGE, ...(before ? { before } : {}) }));
        all.push(...found.items);
        put(said, `${all.length} events read…`);
        before = found.nextBefore;
        if (before === null) break;
      }
      if (kind === "csv") save("holdfast-history.csv", "text/csv;charset=utf-8", asCsv(all));
      else save("holdfast-history.json", "application/json", JSON.stringify(all, null, 2) + "\n");
      put(said, `${all.length} events exported.`);
    } catch (refusal) {
      put(said, `Not exported: ${refusal.message}`);
    } finally {
      for (const one of exporting) one.disabled = false;
    }
  }

  main.addEventListener("change", () => load(false));
  let newest = null;
  feed.addEventListener("change", () => {
    // What is new comes on top of the first page; who has gone further back is left there.
    const id = feed.audit[0]?.id ?? null;
    if (id !== newest && events.length <= PAGE) load(false);
    newest = id;
  });
  load(false);
}

function select(label, name, values) {
  return h("label", {}, label, " ", h("select", { name }, h("option", { value: "" }, "any"),
    values.map((value) => h("option", { value }, value))));
}
