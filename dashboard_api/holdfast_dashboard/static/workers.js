// The fleet: who is there, what each does, what it has seen, and its own switch apart from the system's.

import { get } from "./api.js";
import { badge, h, jobLink, moment, put, table, time } from "./dom.js";

const REFRESH_MS = 3_000;
const SHOWN = 500;

function seen(worker, system) {
  if (worker.observedVersion === null) return "not yet";
  if (system === null) return `${worker.observedVersion}`;
  return worker.observedVersion >= system.version ? `${worker.observedVersion} (current)`
    : `${worker.observedVersion} (now ${system.version})`;
}

/** Build the page. */
export function page(feed, main) {
  const list = h("div", { id: "workers" });
  const said = h("p", { class: "quiet", "aria-live": "polite" });
  put(main, h("section", { class: "card" }, h("h2", {}, "Workers"),
    h("p", { class: "quiet" }, "A worker's own switch is set at the worker and ends with it. A resume of the system does not clear it."),
    said, list));

  let asking = false;
  const refresh = async () => {
    if (asking || document.hidden) return;
    asking = true;
    try {
      const { items } = await get("/api/system/workers");
      const shown = items.slice(0, SHOWN);
      put(list, items.length ? table(`Workers known: ${items.length}`,
        ["Worker", "State", "Own switch", "Jobs", "Version seen", "Takes", "By", "Last seen", "Software"],
        shown.map((worker) => [
          h("span", { class: "id" }, worker.id), badge(worker.state),
          worker.autoEnabled ? "takes work" : badge("local", "locally paused"),
          worker.jobs.length ? worker.jobs.slice(0, 5).map((id, at) => [at > 0 && ", ", jobLink(id)]) : null,
          seen(worker, feed.system),
          [worker.types?.join(", ") || "any type", worker.capabilities.length ? `; has ${worker.capabilities.join(", ")}` : null],
          worker.transport, time(worker.lastSeenAt), [worker.runtime, worker.version].filter(Boolean).join(" ") || null,
        ])) : h("p", {}, "No worker has been seen yet. Start one: ", h("code", {}, "holdfast worker run --handler module:function")));
      put(said, items.length > SHOWN && `The first ${SHOWN} are shown; holdfast workers lists all.`);
    } catch (refusal) {
      put(list); // old states are not shown as if they were of now
      put(said, `Not known: ${refusal.message} Tried last at ${moment(Date.now())}.`);
    } finally {
      asking = false;
    }
  };
  let version = null;
  feed.addEventListener("change", () => {
    if (feed.system?.version !== version) refresh();
    version = feed.system?.version;
  });
  refresh();
  setInterval(refresh, REFRESH_MS);
}
