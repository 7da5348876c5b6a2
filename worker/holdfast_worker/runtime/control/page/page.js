// The status page of one worker. It holds nothing itself: a code in the address, good once and for a minute, is traded
// for a token of this page's own, which stays in this tab.

const LOOK_MS = 1000;
const PATIENCE_MS = 4000;
const TOKEN = "holdfast-page-token";
const HOW = "Run `holdfast worker status --open` in a terminal on this host: it opens this page with a code.";
const VARIANTS = { idle: "Idle", busy: "Busy", paused: "Paused", disconnected: "Disconnected" };

const at = (id) => document.getElementById(id);
const ui = {
  alert: at("alert"), ask: at("ask"), badge: at("badge"), banner: at("banner"), content: at("content"),
  jobs: at("jobs"), keep: at("keep"), local: at("local"), noJobs: at("no-jobs"), pause: at("pause"),
  process: at("process"), really: at("really"), rows: at("rows"), server: at("server"), stop: at("stop"),
  system: at("system"), words: at("words"), worker: at("worker"),
};

let token = sessionStorage.getItem(TOKEN);
let latest = null;
let timer = null;
let looking = false;
let stopAsked = false;

// Only what has changed is written: a reader of the screen hears a change, not each second.
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

async function ask(method, path, body) {
  const headers = { Accept: "application/json" };
  if (token && path !== "/session") headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  const said = await answer.json();
  if (answer.status === 401) {
    token = null;
    sessionStorage.removeItem(TOKEN);
  }
  if (!answer.ok) throw new Refused(said.detail ?? `status ${answer.status}`);
  return said;
}

class Refused extends Error {}

async function begin() {
  const code = location.hash.slice(1);
  if (code) {
    // The code goes from the address before anything else, so that neither a reload nor a bookmark holds it.
    history.replaceState(null, "", location.pathname);
    try {
      token = (await ask("POST", "/session", { code })).token;
      sessionStorage.setItem(TOKEN, token);
    } catch (error) {
      if (!(error instanceof Refused)) return gone();
    }
  }
  if (token) look();
  else closed();
}

async function look() {
  clearTimeout(timer);
  if (document.hidden || looking || !token) return;
  looking = true;
  try {
    show(await ask("GET", "/status"));
  } catch (error) {
    if (token === null) closed();
    else gone();
  } finally {
    looking = false;
  }
  if (token && !document.hidden) timer = setTimeout(look, LOOK_MS);
}

async function turn(what) {
  try {
    show(await ask("POST", `/${what}`));
  } catch (error) {
    if (token === null) closed();
    else if (error instanceof Refused) alarm(`The worker refuses this: ${error.message}`);
    else gone();
  }
}

function alarm(text) {
  put(ui.alert, text);
  ui.alert.hidden = !text;
}

function banner(variant, badge, words) {
  if (ui.banner.className !== variant) ui.banner.className = variant;
  put(ui.badge, badge);
  put(ui.words, words);
}

// Nobody lets this page in: it has no code, or the worker is another one by now.
function closed() {
  latest = null;
  if (ui.ask.open) ui.ask.close();
  ui.content.hidden = true;
  put(ui.worker, "Not open");
  banner("disconnected", "", "This page is not let in.");
  alarm(HOW);
}

function gone() {
  const words = stopAsked ? "The worker has ended." : "The worker does not answer.";
  banner("disconnected", "", words);
  alarm(stopAsked
    ? `${words} Started again it has a page of its own: \`holdfast worker status --open\`.`
    : `${words} What stands below is the last that was heard. This page goes on asking.`);
  for (const button of [ui.pause, ui.stop]) button.disabled = true;
  if (latest === null) put(ui.worker, "Worker");
}

function show(status) {
  latest = status;
  stopAsked = stopAsked || status.stopping;
  alarm("");
  ui.content.hidden = false;
  put(ui.worker, visible(status.workerId));
  const title = `${VARIANTS[status.variant] ?? status.variant}: ${visible(status.workerId)} · Holdfast`;
  if (document.title !== title) document.title = title;
  banner(status.variant, VARIANTS[status.variant] ?? status.variant, words(status));
  put(ui.pause, status.locallyPaused ? "Resume" : "Pause");
  ui.pause.disabled = status.stopping;
  ui.stop.disabled = status.stopping;
  put(ui.local, status.stopping ? "Stopping: takes nothing new"
    : status.locallyPaused ? "Paused by its operator, until resumed or restarted" : "Takes work");
  put(ui.system, system(status.system));
  put(ui.server, `${status.connected ? "Connected" : "Not connected"}: ${visible(status.url)} (${status.transport})`);
  put(ui.process, `${status.pid}, version ${status.version}, since ${local(status.startedAt)}`);
  jobs(status);
}

function words(status) {
  const running = status.jobs.length;
  const count = running === 1 ? "1 job" : `${running} jobs`;
  const at_work = running ? `${count} of at most ${status.slots}` : "no job";
  if (status.stopping) return `It stops: ${running ? `${count} still here` : "nothing runs any more"}.`;
  if (!status.connected) return `The server does not answer; ${at_work} here.`;
  if (status.locallyPaused && status.system?.workersPaused) return `Paused by its operator, and by the system; ${at_work}.`;
  if (status.locallyPaused) return `Paused by its operator; ${at_work}.`;
  if (status.system?.workersPaused) return `Paused by the system; ${at_work}.`;
  return running ? `${at_work[0].toUpperCase()}${at_work.slice(1)}.` : "It waits for a job.";
}

function system(known) {
  if (!known) return "Not heard yet";
  if (!known.workersPaused) return `Running, version ${known.version}`;
  const mode = known.mode ? ` (${known.mode[0].toUpperCase()}${known.mode.slice(1)})` : "";
  const who = known.requestedBy ? ` by ${visible(known.requestedBy)}` : "";
  return `Paused${mode}, version ${known.version}${who}\n${visible(known.reason ?? "")}`;
}

function local(time) {
  return new Date(time).toLocaleString();
}

function jobs(status) {
  ui.noJobs.hidden = status.jobs.length > 0;
  ui.jobs.hidden = status.jobs.length === 0;
  const rows = status.jobs.map((job) => [
    job.id, visible(job.type), String(job.attempt), job.phase, visible(job.checkpoint ?? "–"), local(job.startedAt),
  ]);
  while (ui.rows.rows.length > rows.length) ui.rows.deleteRow(-1);
  rows.forEach((cells, index) => {
    const row = ui.rows.rows[index] ?? ui.rows.insertRow();
    cells.forEach((text, column) => put(row.cells[column] ?? row.insertCell(), text));
  });
}

ui.pause.addEventListener("click", () => turn(latest?.locallyPaused ? "resume" : "pause"));
ui.stop.addEventListener("click", () => ui.ask.showModal());
ui.keep.addEventListener("click", () => ui.ask.close());
ui.really.addEventListener("click", () => {
  ui.ask.close();
  stopAsked = true;
  turn("stop");
});
document.addEventListener("visibilitychange", look);
addEventListener("hashchange", () => begin());
begin();
