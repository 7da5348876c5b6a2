// The first page: what runs, the last hour, and the latest changes.

import { get } from "./api.js";
import { bars, line } from "./chart.js";
import { h, moment, put } from "./dom.js";
import { drainCard } from "./drain.js";
import { eventTable } from "./history.js";
import { session } from "./session.js";

const MINUTE = 60_000;
const REFRESH_MS = 30_000;

/** Spans of minutes in which the system was paused. */
function pauses(items) {
  return items.filter((minute) => minute.workersPaused)
    .map((minute) => ({ from: Date.parse(minute.minute), to: Date.parse(minute.minute) + MINUTE }));
}

function charts(items) {
  const to = items.length ? Date.parse(items.at(-1).minute) + MINUTE : Date.now();
  const over = { from: to - 60 * MINUTE, to, shade: pauses(items) };
  const at = (minute) => Date.parse(minute.minute) + MINUTE;
  const gap = 2.5 * MINUTE;
  return [
    bars({ ...over, title: "Jobs ended each minute", unit: "jobs", step: MINUTE, points: items.map((minute) => ({
      at: Date.parse(minute.minute),
      parts: [{ value: minute.succeeded, kind: "good" }, { value: minute.cancelled, kind: "middling" },
        { value: minute.failed + minute.deadLetter, kind: "bad" }] })) }),
    line({ ...over, gap, title: "Age of the oldest queued job", unit: "s",
      points: items.map((minute) => ({ at: at(minute), value: minute.oldestQueuedSeconds ?? 0 })) }),
    line({ ...over, gap, title: "Jobs queued", unit: "jobs", points: items.map((minute) => ({ at: at(minute), value: minute.queued })) }),
    line({ ...over, gap, title: "Jobs running", unit: "jobs", points: items.map((minute) => ({ at: at(minute), value: minute.running })) }),
  ];
}

/** Build the page. */
export function page(feed, main) {
  const hour = h("div", { id: "charts", class: "charts" });
  const latest = h("div", { id: "latest" });
  put(main,
    drainCard(feed),
    h("section", { class: "card" }, h("h2", {}, "The last hour"),
      h("p", { class: "quiet" }, "Ended: succeeded, cancelled and failed, from below. Marked: minutes at whose end the system was paused."), hour),
    h("section", { class: "card" }, h("h2", {}, "Latest changes"), latest,
      h("p", {}, h("a", { href: "/tasks/history" }, "All of the history"))));

  const refresh = async () => {
    if (document.hidden) return;
    try {
      const { items } = await get("/api/system/metrics/history?minutes=60");
      put(hour, ...(items.length ? charts(items) : [h("p", {}, "Nothing yet: a line is written each minute.")]));
    } catch (refusal) {
      put(hour, h("p", {}, `Not known: ${refusal.message} Tried last at ${moment(Date.now())}.`));
    }
  };
  refresh();
  setInterval(refresh, REFRESH_MS);
  session.addEventListener("change", () => session.over || refresh());

  const show = () => put(latest, feed.system === null ? h("p", {}, "Unknown.")
    : feed.audit.length ? eventTable("Latest changes", feed.audit) : h("p", {}, "Nobody has paused anything yet."));
  feed.addEventListener("change", show);
  show();
}
