// Pausing, changing a pause, and resuming. Both carry the version that the person saw when the form was opened.

import { get, Keys, post, Refusal } from "./api.js";
import { button, count, duration, h, jobLink, moment, put } from "./dom.js";
import { confirmDialog, field, formDialog, loggedOut, missing, stayed } from "./forms.js";
import { notice } from "./notices.js";
import { session } from "./session.js";

const PATH = "/api/system/worker-pause";
const MODES = {
  drain: ["Drain (recommended)", "No new claims anywhere; running jobs finish. Deletes nothing, cancels nothing."],
  quiesce: ["Quiesce", "No new claims anywhere; running jobs wait at their next checkpoint and keep their leases."],
};

function inWords(system) {
  return system.workersPaused ? `paused (${system.mode}): ${system.reason}` : "running";
}

/** A line that says on which state the form acts, and what has changed since; `seen.version` is what will be sent. */
function standing(feed, seen) {
  const line = h("div", { class: "standing", "aria-live": "polite" });
  const show = () => {
    const now = feed.system;
    if (session.over) {
      put(line, h("p", {}, `You saw version ${seen.version}. `, loggedOut()));
    } else if (now === null) {
      put(line, h("p", {}, `You saw version ${seen.version}. At the moment the server does not answer.`));
    } else if (now.version === seen.version) {
      put(line, h("p", {}, `Version ${now.version}: ${inWords(now)}`));
    } else {
      put(line, h("p", { class: "error" }, `Changed meanwhile by ${now.requestedBy ?? "somebody"}: version ${now.version}, `
        + `${inWords(now)}. Yours still acts on version ${seen.version} and will be refused.`),
        button("Act on what is there now", () => { seen.version = now.version; show(); }));
    }
  };
  show();
  feed.addEventListener("change", show);
  return { line, stop: () => feed.removeEventListener("change", show) };
}

/** Send a toggle; take in and tell what came of it. */
async function toggle(feed, keys, body) {
  try {
    const answer = await post(PATH, body, { key: keys.of(body) });
    feed.take(answer);
    if (answer.warning) notice("warning", answer.warning);
    else if (answer.audit.latest[0]?.outcome === "unchanged") notice("done", "Nothing to change: it is paused just so.");
    else if (body.action === "pause") notice("done", "Paused: no claim is handed out until a resume.");
    else notice("done", "Resumed: workers claim again.");
  } catch (refusal) {
    if (refusal instanceof Refusal && refusal.code === "idempotency_stale") keys.of(null);
    throw refusal;
  }
}

/** Pause, or change the pause that there is. */
export function pauseDialog(feed) {
  const before = feed.system;
  if (before === null) return;
  const seen = { version: before.version };
  const { line, stop } = standing(feed, seen);
  const keys = new Keys();
  const chosen = before.mode ?? "drain";
  const modes = Object.entries(MODES).map(([mode, [name, words]]) => h("label", { class: "choice" },
    h("input", { type: "radio", name: "mode", value: mode, checked: mode === chosen }),
    h("span", {}, h("strong", {}, name), h("br"), words)));
  const reason = h("textarea", { rows: 2, maxlength: 1000, required: true, autofocus: true });
  reason.value = before.reason ?? "";
  const minutes = h("input", { type: "number", min: 1, max: 10080, step: 1, inputmode: "numeric" });
  const keep = h("input", { type: "checkbox", checked: true });
  const dialog = formDialog({
    title: before.workersPaused ? "Change the pause" : "Pause all workers",
    submit: before.workersPaused ? "Change the pause" : "Pause workers",
    body: [
      line,
      h("fieldset", {}, h("legend", {}, "Mode"), modes),
      field("reason", "Reason", reason, "Shown to everybody and kept in the audit log."),
      before.resumeAt && h("label", { class: "choice" }, keep,
        h("span", {}, `Keep its end: it ends by itself ${moment(before.resumeAt)}`)),
      field("resumeAfterSeconds", "Ends by itself after minutes (optional)", minutes,
        "Left empty, it lasts until somebody resumes. It ends then though jobs may still run."),
    ],
    send: (form) => {
      if (!reason.value.trim()) throw missing("reason");
      const body = { action: "pause", mode: form.elements.mode.value, reason: reason.value.trim(), expectedVersion: seen.version };
      if (minutes.value !== "" || minutes.validity.badInput) {
        if (!minutes.validity.valid) {
          throw new Refusal("The time limit cannot be taken.", { status: 422, code: "invalid_request",
            errors: [{ field: "resumeAfterSeconds", message: "takes whole minutes, 1 to 10,080 (7 days)" }] });
        }
        body.resumeAfterSeconds = Math.round(Number(minutes.value) * 60);
      } else if (before.resumeAt && keep.checked) {
        body.resumeAt = before.resumeAt;
      }
      return toggle(feed, keys, body);
    },
  });
  dialog.addEventListener("close", stop);
}

function whatRemains(metrics) {
  return `${count(metrics.running, "job")} running (${metrics.parked} parked) and ${metrics.staleRunning} stale`;
}

/** Show what still runs, and ask. */
async function acceptRisk(metrics) {
  const list = h("ul", { class: "plain" });
  get("/api/system/blockers").then(({ items, total }) => {
    put(list, ...items.slice(0, 8).map((item) =>
      h("li", {}, jobLink(item.jobId), ` ${item.type} on ${item.workerId}, ${item.verdict}, for ${duration(item.ageSeconds)}`)),
      total > 8 && h("li", {}, `and ${total - 8} more`));
  }, (refusal) => put(list, h("li", {}, refusal.message)));
  return confirmDialog({
    title: "Resume before the drain has ended?",
    body: [h("p", {}, metrics ? `Not drained: ${whatRemains(metrics)}. ` : "Not drained. ",
      "An upgrade that has not been finished may meet work of the old kind. The audit log will say that the risk was accepted."),
      list],
    yes: "Continue",
  });
}

/** Resume; before the drain has ended only after asking. */
export function resumeDialog(feed) {
  const before = feed.system;
  if (before === null || !before.workersPaused) return;
  const seen = { version: before.version };
  const { line, stop } = standing(feed, seen);
  const keys = new Keys();
  const reason = h("textarea", { rows: 2, maxlength: 1000, required: true, autofocus: true });
  const dialog = formDialog({
    title: "Resume all workers",
    submit: "Resume workers",
    body: [line, field("reason", "Reason", reason, "Kept in the audit log.")],
    send: async () => {
      if (!reason.value.trim()) throw missing("reason");
      const body = { action: "resume", reason: reason.value.trim(), expectedVersion: seen.version };
      // Unknown counts as not drained: nothing is assumed that was not told.
      const drained = feed.metrics?.isDrained === true;
      if (!drained) {
        if (!(await acceptRisk(feed.metrics))) throw stayed();
        body.forceResume = true;
      }
      try {
        await toggle(feed, keys, body);
      } catch (refusal) {
        if (refusal.code !== "resume_not_drained" || !(await acceptRisk(feed.metrics))) throw refusal;
        await toggle(feed, keys, { ...body, forceResume: true });
      }
    },
  });
  dialog.addEventListener("close", stop);
}
