// One job: its state, its lease, its payload, its log as it grows, its artifacts; and what can be done about it.

import { get, post } from "./api.js";
import { button, clock, duration, h, moment, put, table, time } from "./dom.js";
import { reasonDialog } from "./forms.js";
import { isStale, jobBadge } from "./jobs.js";
import { notice } from "./notices.js";
import { session } from "./session.js";

const REFRESH_MS = 2_000;
/** Lines of the log that the page keeps. */
const MOST_LINES = 2_000;
const OPEN = new Set(["queued", "running"]);

function lease(job) {
  if (job.status !== "running" || !job.leaseExpiresAt) return null;
  const left = (Date.parse(job.leaseExpiresAt) - clock.now()) / 1000;
  return left > 0 ? `ends in ${duration(left)} unless it is renewed` : `stale: ran out ${duration(-left)} ago, nobody heartbeats`;
}

function facts(job) {
  const rows = [
    ["Status", jobBadge(job)], ["Type", job.type], ["Attempt", `${job.attempt} of ${job.maxAttempts}`], ["Priority", job.priority],
    ["Worker", job.claimedBy], ["Lease", h("span", { id: "lease" }, lease(job))], ["Checkpoint", job.checkpoint],
    ["Not before", OPEN.has(job.status) ? time(job.nextAttemptAt) : null],
    ["Progress", job.progress && h("code", {}, JSON.stringify(job.progress))],
    ["Needs", job.requiredCapabilities.join(", ") || null], ["Affinity", job.affinityKey],
    ["Result", job.resultSummary], ["Error", job.errorMessage],
    ["Cancellation asked", time(job.cancelRequestedAt)], ["Cancel reason", job.cancelReason],
    ["Created", time(job.createdAt)], ["Started", time(job.startedAt)], ["Finished", time(job.finishedAt)],
  ];
  return h("dl", { class: "facts" }, rows.filter(([name, value]) => value !== null && value !== undefined && (name !== "Lease" || lease(job)))
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, typeof value === "string" ? lines(value) : value))));
}

const lines = (text) => text.split("\n").flatMap((line, at) => (at ? [h("br"), line] : [line]));

function act(job, verb, words, options, done) {
  reasonDialog({
    title: words, submit: words, ...options,
    send: async (body) => {
      const after = await post(`/api/queue/jobs/${job.id}/${verb}`, body);
      notice("done", after.cancelRequestedAt && after.status === "running"
        ? "Its worker is asked to stop it at the next heartbeat." : `The job is ${after.status.replaceAll("_", " ")}.`);
      done();
    },
  });
}

function actions(job, done) {
  const stale = isStale(job);
  const produces = session.may("produce");
  return [
    stale && session.may("requeue") && button("Requeue…", () => act(job, "requeue", "Requeue this job",
      { required: true, danger: true, words: "It goes back to its place with one more attempt used." }, done), { id: "requeue" }),
    produces && OPEN.has(job.status) && !job.cancelRequestedAt && button("Cancel…", () => act(job, "cancel", "Cancel this job",
      { danger: true, words: job.status === "running" && !stale ? "Its worker is asked to stop." : "It ends at once." }, done), { id: "cancel" }),
    produces && ["failed", "dead_letter", "cancelled"].includes(job.status) && button("Retry…", () => act(job, "retry", "Run this job again",
      { words: "It goes back to its place, from attempt 1." }, done), { id: "retry" }),
  ];
}

/** The log from its beginning, as it grows, until `over("ended")` or `over("cut")`. Returns what closes it. */
function followLog(id, log, said, over) {
  const waiting = [];
  put(log);
  const flush = () => {
    const near = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(...waiting.splice(0).slice(-MOST_LINES));
    while (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
    if (near) log.scrollTop = log.scrollHeight;
  };
  const source = new EventSource(`/api/queue/jobs/${encodeURIComponent(id)}/events/stream`);
  source.addEventListener("open", () => put(said));
  source.addEventListener("log", (event) => {
    const one = JSON.parse(event.data);
    if (waiting.push(h("li", { class: one.level, "data-sequence": one.sequence },
      h("span", { class: "quiet" }, `${moment(one.createdAt)} ${one.workerId ?? "server"} ${one.level === "info" ? "" : one.level} `),
      lines(one.message), one.payload && h("code", {}, ` ${JSON.stringify(one.payload)}`))) === 1) requestAnimationFrame(flush);
    if (waiting.length > MOST_LINES) waiting.shift(); // a page that nobody sees draws no frame
  });
  source.addEventListener("end", () => { source.close(); put(said, "The job has ended."); over("ended"); });
  source.addEventListener("error", () => {
    put(said, "The log is cut off; trying again.");
    if (source.readyState === EventSource.CLOSED) over("cut"); // refused: the browser does not try again by itself
  });
  return () => source.close();
}

/** Build the page. */
export function page(feed, main) {
  const id = document.body.dataset.job;
  const said = h("p", { "aria-live": "polite" });
  const body = h("div", {});
  const doing = h("div", { class: "actions", id: "job-actions" });
  const payload = h("pre", { id: "payload", tabindex: 0, "aria-label": "Payload" });
  const artifacts = h("div", { id: "artifacts" });
  const log = h("ol", { id: "log", class: "log plain", tabindex: 0, "aria-label": "Log" });
  const logSaid = h("p", { class: "quiet", "aria-live": "polite" });
  put(main, h("section", { class: "card" }, h("h2", {}, "Job ", h("span", { class: "id" }, id)), said, body, doing),
    h("section", { class: "card" }, h("h2", {}, "Payload"), payload),
    h("section", { class: "card" }, h("h2", {}, "Log"), log, logSaid),
    h("section", { class: "card" }, h("h2", {}, "Artifacts"), artifacts));

  let job = null;
  let shown = "";
  let close = null;
  let followed = "not yet";
  let turn = 0;
  let artifactsShown = "";
  const path = `/api/queue/jobs/${encodeURIComponent(id)}`;

  async function refresh() {
    if (document.hidden) return;
    const mine = (turn += 1);
    try {
      const found = await get(path);
      if (mine !== turn) return;
      job = found;
    } catch (refusal) {
      if (mine !== turn) return;
      job = null;
      shown = "";
      put(body);
      put(doing);
      put(said, refusal.code === "job_not_found" ? "There is no such job." : `Not known: ${refusal.message}`);
      return;
    }
    put(said);
    put(body, facts(job));
    const state = JSON.stringify([job.status, isStale(job), job.cancelRequestedAt, session.may("produce"), session.may("requeue")]);
    if (state !== shown) {
      const focused = doing.contains(document.activeElement);
      put(doing, ...actions(job, refresh));
      if (focused) (doing.querySelector("button") ?? main).focus();
    }
    if (shown === "") put(payload, ...lines(JSON.stringify(job.payload, null, 2)));
    if (state !== shown || OPEN.has(job.status)) showArtifacts();
    shown = state;
    if (["not yet", "cut"].includes(followed) || (followed === "ended" && OPEN.has(job.status))) { // run again
      close?.();
      followed = "yes";
      close = followLog(id, log, logSaid, (how) => {
        followed = how;
        if (how === "ended") refresh();
      });
    }
  }

  async function showArtifacts() {
    try {
      const { items } = await get(`${path}/artifacts`);
      if (artifactsShown === JSON.stringify(items)) return;
      artifactsShown = JSON.stringify(items);
      put(artifacts, items.length ? table("Artifacts, oldest first", ["Name", "Size", "Type", "Made", "Digest"], items.map((one) => [
        h("a", { href: `${path}/artifacts/${one.id}/download`, download: true }, one.name), `${one.size.toLocaleString("en")} bytes`,
        one.contentType, time(one.createdAt), h("span", { class: "id" }, one.digest.slice(0, 19), "…")])) : h("p", {}, "None."));
    } catch (refusal) {
      artifactsShown = "";
      put(artifacts, h("p", {}, `Not known: ${refusal.message}`));
    }
  }

  setInterval(refresh, REFRESH_MS);
  setInterval(() => {
    const left = document.getElementById("lease");
    if (job && left) put(left, lease(job));
  }, 1_000);
  addEventListener("pagehide", () => close?.());
  session.addEventListener("change", () => {
    if (!session.over || followed !== "yes") return;
    close();
    followed = "cut"; // and goes on from its beginning for who logs in again
  });
  refresh();
}
