// The banner on top of every page: whether workers run, who paused them and why, and when it is safe.

import { button, count, duration, h, put, since, time, timeOfDay } from "./dom.js";
import { session, wayIn } from "./session.js";
import { pauseDialog, resumeDialog } from "./toggle.js";

const nameOf = (mode) => mode.charAt(0).toUpperCase() + mode.slice(1);

/** `Workers: Paused (Drain)` and the like. */
export function titleOf(system) {
  if (system === null) return "Workers: Unknown";
  return system.workersPaused ? `Workers: Paused (${nameOf(system.mode)})` : "Workers: Running";
}

/** What somebody has to know who misses the buttons. */
const LACKING = {
  viewer: "You are a viewer: you see everything and change nothing. Pausing takes the role operator.",
  producer: "You are a producer: you enqueue, cancel and retry jobs. Pausing and requeuing take the role operator.",
};

/** How long a pause should last at most, in seconds; 0: no limit. */
const SLA = Number(document.body.dataset.sla);
/** A timer that is set for longer than this fires at once. */
const TIMER_MS = 2 ** 31 - 1;

/** In how many seconds the pause will have lasted too long; 0 or less: it has. */
const secondsLeft = (system) => (SLA > 0 && system?.workersPaused ? SLA - since(system.requestedAt) : Infinity);

function facts(feed) {
  const { system, metrics, workers } = feed;
  if (session.over) {
    return [h("p", { role: "alert", class: "reason" }, "You are logged out."),
      h("p", {}, "The session has ended, here or elsewhere. ", h("a", { href: wayIn(), id: "log-in" }, "Log in again"))];
  }
  if (system === null) {
    return [h("p", {}, feed.heardAt === null ? feed.cause
      : `Unknown: the pause API does not answer since ${timeOfDay(feed.heardAt)}. ${feed.cause}`)];
  }
  const by = system.requestedBy ? ` by ${system.requestedBy}` : "";
  if (!system.workersPaused) {
    return [h("p", {}, `version ${system.version}`, by && [`, resumed${by} `, time(system.updatedAt)])];
  }
  const mark = metrics.safeToUpgrade ? "Safe to upgrade" : metrics.isParked ? "All parked" : null;
  return [
    h("p", { class: "reason" }, system.reason),
    h("p", {}, `paused${by} since `, time(system.requestedAt),
      system.resumeAt ? [", ends by itself ", time(system.resumeAt)] : null, ` · version ${system.version}`),
    h("p", {}, `${metrics.running} running (${metrics.parked} parked) · ${metrics.staleRunning} stale · `
      + `${metrics.queued} queued · seen by ${workers.acknowledged} of ${count(workers.connected, "worker")}`),
    mark && h("p", {}, h("strong", { class: "mark" }, mark)),
  ];
}

/** Keeps the banner as the feed says. */
export function showBanner(feed) {
  const banner = document.getElementById("banner");
  const title = document.getElementById("banner-title");
  const late = document.getElementById("late");
  let timer = null;
  // Until the feed has told how things stand, there is nothing to act on.
  const pause = button("Pause…", () => pauseDialog(feed), { id: "pause", disabled: true });
  const change = button("Change mode or reason…", () => pauseDialog(feed), { id: "change", hidden: true });
  const resume = button("Resume…", () => resumeDialog(feed), { id: "resume", disabled: true });
  const lacking = h("p", { id: "lacking", hidden: true });
  const degraded = h("p", { id: "degraded", hidden: true });
  put(document.getElementById("banner-actions"), pause, resume, change, lacking, degraded);
  const offer = () => {
    const may = session.may("toggle");
    pause.hidden = resume.hidden = !may || session.over;
    lacking.hidden = may || session.over;
    lacking.textContent = LACKING[session.role] ?? "";
  };
  const show = () => {
    const { system } = feed;
    const words = titleOf(system);
    banner.className = system === null ? "unknown" : system.workersPaused ? "paused" : "running";
    if (title.textContent !== words) title.textContent = words; // said aloud only when it changes
    put(document.getElementById("banner-facts"), ...facts(feed));
    const left = secondsLeft(system);
    const lateWords = left <= 0 ? "This pause has lasted longer than it should." : "";
    if (late.textContent !== lateWords) late.textContent = lateWords;
    clearTimeout(timer);
    if (left > 0 && left < Infinity) timer = setTimeout(show, Math.min(left * 1000 + 50, TIMER_MS));
    document.title = `${words} · Holdfast`;
    pause.disabled = system === null || system.workersPaused;
    resume.disabled = system === null || !system.workersPaused;
    change.hidden = !session.may("toggle") || system === null || !system.workersPaused;
    degraded.hidden = feed.way !== "polling";
    degraded.textContent = `No live updates: asking every ${duration(5)}.`;
  };
  offer();
  session.addEventListener("change", offer);
  for (const one of [feed, session]) one.addEventListener("change", show);
}
