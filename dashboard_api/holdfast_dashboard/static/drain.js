// The drain card: what still runs, how far the drain is, what keeps it, and when it is safe.

import { get, post } from "./api.js";
import { badge, button, clock, count, duration, h, jobLink, put, time } from "./dom.js";
import { line } from "./chart.js";
import { reasonDialog } from "./forms.js";
import { notice } from "./notices.js";
import { session } from "./session.js";

const BLOCKERS_MS = 2_000;
const MOST_SAMPLES = 1_000;
/** No estimate from less than this, in seconds: it would jump. */
const ESTIMATE_SECONDS = 3;

const held = (metrics) => metrics.running + metrics.staleRunning;

/** What is known of the pause that is on: its start, and how many jobs it still held since then. */
class Course {
  version = null;
  since = null;
  samples = [];

  /** Take in the newest counts. */
  follow({ system, metrics, audit }) {
    const began = Date.parse(system.requestedAt);
    if (this.since !== began) {
      this.since = began;
      this.samples = [];
      this.#remember(audit);
      get("/api/system/control-events?outcome=changed&action=pause&limit=50").then((page) => this.#remember(page.items), () => {});
      get("/api/system/metrics/history?minutes=120").then(({ items }) => this.#add(items
        .map((minute) => ({ at: Date.parse(minute.minute) + 60_000, value: minute.running + minute.staleRunning }))), () => {});
    }
    this.#add([{ at: clock.now(), value: held(metrics) }]);
  }

  /** The event that began this pause says how many jobs ran at that moment. */
  #remember(events) {
    const first = events.filter((event) => event.action === "pause" && event.outcome === "changed"
      && Date.parse(event.createdAt) >= this.since).at(-1);
    if (first && first.running !== null) {
      this.#add([{ at: Date.parse(first.createdAt), value: first.running + (first.staleRunning ?? 0) }]);
    }
  }

  #add(points) {
    const known = new Set(this.samples.map((sample) => sample.at));
    this.samples.push(...points.filter((point) => point.at >= this.since && !known.has(point.at)));
    this.samples.sort((one, other) => one.at - other.at);
    if (this.samples.length > MOST_SAMPLES) this.samples.splice(1, this.samples.length - MOST_SAMPLES);
  }

  get most() {
    return Math.max(0, ...this.samples.map((sample) => sample.value));
  }

  /** Seconds until nothing is held, if jobs go on ending as they have; null where that cannot be said. */
  get secondsLeft() {
    const [first, last] = [this.samples[0], this.samples.at(-1)];
    const seconds = (last.at - first.at) / 1000;
    const ended = first.value - last.value;
    return seconds < ESTIMATE_SECONDS || ended <= 0 ? null : (last.value / ended) * seconds;
  }
}

function requeue(item) {
  reasonDialog({
    title: "Requeue a stale job",
    words: `Nobody heartbeats for job ${item.jobId} (${item.type}, held by ${item.workerId}). It goes back to its place with one`
      + " more attempt used, or to the dead letters when none is left. If its worker still lives, what it does is lost.",
    submit: "Requeue", required: true, danger: true,
    send: async (body) => {
      const job = await post(`/api/queue/jobs/${item.jobId}/requeue`, body);
      notice("done", `Job …${job.id.slice(-12)} is ${job.status.replaceAll("_", " ")}, attempt ${job.attempt}.`);
    },
  });
}

function blockerRow(item) {
  return h("li", { class: "blocker" },
    h("div", {}, badge(item.verdict), " ", jobLink(item.jobId), ` ${item.type} on ${item.workerId}, for ${duration(item.ageSeconds)}`,
      item.checkpoint && [", last checkpoint ", item.checkpoint]),
    h("p", { class: "quiet" }, item.advice, " · last heartbeat ", time(item.lastHeartbeatAt)),
    item.verdict === "stale" && session.may("requeue") && button("Requeue…", () => requeue(item)));
}

/** Tiles with the counts of now. */
export function tiles({ metrics }) {
  const cells = [["Running", metrics.running], ["Parked", metrics.parked], ["Stale", metrics.staleRunning],
    ["Queued", metrics.queued], ["Scheduled", metrics.scheduled]];
  return h("dl", { class: "tiles" }, cells.map(([name, value]) =>
    h("div", { "data-count": name.toLowerCase() }, h("dt", {}, name), h("dd", {}, value.toLocaleString("en")))));
}

/** The card, kept as the feed says. */
export function drainCard(feed) {
  const course = new Course();
  const state = h("p", { id: "drain-state", "aria-live": "polite" });
  const counts = h("div", {});
  const bar = h("progress", { "aria-label": "Drain" });
  const words = h("p", { id: "drain-words" });
  const chart = h("div", { id: "drain-chart" });
  const blockers = h("ul", { id: "blockers", class: "plain" });
  const blocked = h("div", { hidden: true }, h("h3", {}, "What it waits for"), blockers);
  const progress = h("div", { hidden: true }, bar, words, chart, blocked);
  const card = h("section", { id: "drain", class: "card" }, h("h2", {}, "What runs"), state, counts, progress);

  let asked = 0;
  let again = null;
  const askBlockers = async () => {
    clearTimeout(again);
    const wait = asked + BLOCKERS_MS - Date.now();
    if (wait > 0) {
      again = setTimeout(askBlockers, wait);
      return;
    }
    asked = Date.now();
    try {
      const { items, total } = await get("/api/system/blockers");
      if (feed.system === null || !feed.system.workersPaused) return;
      blocked.hidden = total === 0;
      put(blockers, ...items.slice(0, 50).map(blockerRow), total > 50 && h("li", {}, `and ${total - 50} more`));
    } catch (refusal) {
      blocked.hidden = false;
      put(blockers, h("li", {}, `What keeps it is not known: ${refusal.message}`));
    }
  };

  const show = () => {
    const { system, metrics } = feed;
    if (system === null) {
      put(state, "Unknown: the server does not answer.");
      put(counts);
      progress.hidden = true;
      blocked.hidden = true;
      return;
    }
    put(counts, tiles(feed));
    progress.hidden = !system.workersPaused;
    if (!system.workersPaused) {
      const age = metrics.oldestQueuedSeconds;
      put(state, age === null ? "Workers take jobs." : `Workers take jobs. The oldest queued one has waited ${duration(age)}.`);
      return;
    }
    course.follow(feed);
    const left = held(metrics);
    const quiesce = system.mode === "quiesce";
    put(state, metrics.safeToUpgrade ? h("strong", { class: "mark" }, "Safe to upgrade")
      : metrics.isParked ? h("strong", { class: "mark" }, "All parked")
      : left === 0 ? "Counting…" // the counts that are shown are older than this pause
      : `Not yet safe: ${count(left, "job")} still ${left === 1 ? "runs" : "run"}.`);
    bar.max = course.most || 1; // nothing ran: all of nothing is done
    bar.value = left === 0 ? bar.max : course.most - left + (quiesce ? metrics.parked : 0);
    const estimate = metrics.safeToUpgrade || metrics.isParked ? null : course.secondsLeft;
    put(words, course.most === 0 ? "Nothing was running when the pause began."
      : quiesce ? `${metrics.parked} of ${left} parked` : `${course.most - left} of ${course.most} done`,
      metrics.staleRunning > 0 && `, ${metrics.staleRunning} stale: nobody heartbeats for ${metrics.staleRunning === 1 ? "it" : "them"}`,
      !quiesce && estimate !== null && `; about ${duration(estimate)} left, if jobs go on ending as they have`);
    put(chart, course.most > 0 && line({ title: "Jobs still held, since the pause", points: course.samples, unit: "jobs", from: course.since, steps: true }));
    if (left > 0) askBlockers();
    else blocked.hidden = true;
  };
  feed.addEventListener("change", show);
  setInterval(() => !blocked.hidden && feed.system?.workersPaused && askBlockers(), 5_000);
  show();
  return card;
}
