// What this page knows of the system: from the event stream, else by asking every five seconds, else nothing.
//
// Nothing that was not told is ever shown: once neither way answers, the state is unknown (null) at once. When the
// session has ended it is unknown, too, and nothing more is asked until somebody has logged in again.

import { get, lookAgain } from "./api.js";
import { session } from "./session.js";

const POLL_MS = 5_000;
const POLL_SECONDS = 4;
/** The server says something every ten seconds; a stream that is silent for longer is broken. */
const SILENT_MS = 20_000;
const RECONNECT_MS = [1_000, 2_000, 4_000, 8_000];
/** A browser keeps few connections to one server: a page that nobody sees gives its own back. */
const HIDDEN_MS = 30_000;

/** Fires `change` whenever something of its state has changed. */
export class Feed extends EventTarget {
  /** `live`, `polling`, or null while nothing is known. */
  way = null;
  system = null;
  metrics = null;
  workers = null;
  /** The newest events, newest first. */
  audit = [];
  /** When the server was last heard. */
  heardAt = null;
  /** Why nothing is known, in the server's words where it has some. */
  cause = "";

  #source = null;
  #polling = false;
  #failures = 0;
  #reconnect = null;
  #hidden = null;
  #turn = 0;
  #told = false;
  #stopped = false;

  start() {
    this.#connect();
    setInterval(() => this.#watch(), 1_000);
    setInterval(() => this.way !== "live" && !this.#hiddenAway && !this.#stopped && this.#poll(), POLL_MS);
    document.addEventListener("visibilitychange", () => this.#seen());
    addEventListener("pageshow", (event) => event.persisted && this.#again());
    addEventListener("pagehide", () => this.#close());
    addEventListener("online", () => this.#again());
    session.addEventListener("change", () => (session.over ? this.#stop() : this.#stopped && this.#again()));
  }

  /** Take in a snapshot that came as the answer to something else. */
  take(snapshot) {
    if (this.#stopped || (this.system !== null && snapshot.system.version < this.system.version)) return;
    this.#turn += 1; // what was asked before may be older
    this.#adopt(snapshot);
  }

  get #hiddenAway() {
    return document.hidden && this.#source === null && this.#reconnect === null;
  }

  #connect() {
    this.#close();
    const source = new EventSource("/api/system/events");
    this.#source = source;
    const on = (name, taking) => source.addEventListener(name, (event) => {
      if (source !== this.#source || event.data === undefined) return;
      taking(JSON.parse(event.data));
      this.heardAt = Date.now();
      this.#tell();
    });
    on("snapshot", (snapshot) => {
      this.#failures = 0;
      this.#turn += 1;
      this.way = "live";
      this.#adopt(snapshot);
      // Behind a connection that was cut somebody else may have logged in.
      if (this.#told && session.name) lookAgain();
      this.#told = true;
    });
    on("system", (system) => {
      if (system.version <= this.system.version) return;
      this.system = system;
      // The counts of the new version are still to come: until then nothing is drained or safe.
      this.metrics = { ...this.metrics, isDrained: false, isParked: false, safeToUpgrade: false };
    });
    on("metrics", (metrics) => { this.metrics = metrics; });
    on("workers", (workers) => { this.workers = workers; });
    on("audit", (event) => {
      if (event.outcome !== "refused" && !this.audit.some((known) => known.id === event.id)) {
        this.audit = [event, ...this.audit].slice(0, 5);
      }
    });
    source.addEventListener("error", () => source === this.#source && this.#broken());
  }

  #adopt(snapshot) {
    this.system = snapshot.system;
    this.metrics = snapshot.metrics;
    this.workers = snapshot.workers;
    this.audit = snapshot.audit.latest;
    this.heardAt = Date.now();
    this.cause = "";
    this.#tell();
  }

  #broken() {
    this.#close();
    if (this.#stopped) return;
    if (this.way === "live") this.way = "polling";
    const wait = RECONNECT_MS[Math.min(this.#failures++, RECONNECT_MS.length - 1)];
    this.#reconnect = setTimeout(() => this.#connect(), wait);
    this.#poll();
  }

  async #poll() {
    if (this.#polling) return;
    this.#polling = true;
    const turn = this.#turn;
    try {
      const snapshot = await get("/api/system/worker-pause", { seconds: POLL_SECONDS });
      if (turn === this.#turn) {
        this.way = "polling";
        this.#adopt(snapshot);
      }
    } catch (refusal) {
      if (turn === this.#turn) this.#unknown(refusal.message);
    } finally {
      this.#polling = false;
    }
  }

  #unknown(cause) {
    this.way = null;
    this.system = this.metrics = this.workers = null;
    this.cause = cause;
    this.#tell();
  }

  /** Nobody is logged in any more. */
  #stop() {
    this.#stopped = true;
    this.#close();
    this.#turn += 1; // what is still under way was for who was logged in before
    this.#unknown("You are logged out.");
  }

  #watch() {
    if (this.#hiddenAway || this.heardAt === null || Date.now() - this.heardAt < SILENT_MS) return;
    if (this.way === "live") this.#broken();
    else if (this.way === "polling") this.#unknown("The server has not been heard for a while.");
  }

  #seen() {
    clearTimeout(this.#hidden);
    if (document.hidden) {
      this.#hidden = setTimeout(() => this.#close(), HIDDEN_MS);
    } else if (this.#source === null || this.#source.readyState === EventSource.CLOSED) {
      this.#again();
    }
  }

  /** What was known is old: ask anew, and show nothing until the answer is there. */
  #again() {
    if (session.over) return;
    this.#stopped = false;
    this.#unknown("Asking the server…");
    this.#connect();
  }

  #close() {
    clearTimeout(this.#reconnect);
    this.#reconnect = null;
    this.#source?.close();
    this.#source = null;
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}
