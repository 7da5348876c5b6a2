// Asking the server: JSON in, JSON out, each refusal in words.

import { clock } from "./dom.js";
import { session } from "./session.js";

const ANSWER_SECONDS = 10;
const SESSION = "/api/session";
const LOGGED_OUT = { status: 401, code: "not_authenticated" };

/** What was refused, or could not be asked at all (`unreachable`). The message is for people. */
export class Refusal extends Error {
  constructor(message, { status = 0, code = "unreachable", errors = [], system = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, errors, system, retryAfter });
  }

  /** Nobody knows whether it was carried out. */
  get unknown() {
    return this.code === "unreachable" || this.status === 503;
  }

  /** Who asked is not logged in any more. */
  get loggedOut() {
    return this.status === 401;
  }
}

const loggedOut = () => new Refusal("You are logged out.", LOGGED_OUT);

/**
 * The answer's JSON; null where it has none. `key`: an Idempotency-Key. Throws Refusal.
 *
 * Once nobody is logged in any more, only what a person does is still asked: a page must not ask for ever.
 */
export async function ask(method, path, { body, key, seconds = ANSWER_SECONDS } = {}) {
  if (session.over && method === "GET" && path !== SESSION) throw loggedOut();
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  let response;
  let answer;
  try {
    response = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store",
      credentials: "same-origin", signal: AbortSignal.timeout(seconds * 1000),
    });
    answer = response.status === 204 ? null : await response.json();
  } catch (error) {
    if (response === undefined || error.name === "TimeoutError") {
      throw new Refusal(error.name === "TimeoutError"
        ? `The server has not answered within ${seconds} s.` : "The server does not answer.");
    }
    answer = null;
  }
  const said = Date.parse(response.headers.get("Date") ?? "");
  // The header is cut to whole seconds, so half a second is its mean error.
  if (!Number.isNaN(said) && Math.abs(said + 500 - clock.now()) > 1500) clock.ahead = said + 500 - Date.now();
  if (response.status === 204 || (response.ok && answer !== null)) {
    if (session.over && method !== "GET" && path.startsWith("/api/")) lookAgain(); // somebody has logged in elsewhere
    return answer;
  }
  if (response.status === 401 && path !== "/login") {
    session.end();
    throw loggedOut();
  }
  if (response.status === 403 && session.name) lookAgain(); // somebody else may have logged in here meanwhile
  throw new Refusal(answer?.detail ?? `The server answers with status ${response.status}, and not as Holdfast does.`,
    { status: response.status, code: answer?.code ?? "unexpected", errors: answer?.errors, system: answer?.system,
      retryAfter: Number(response.headers.get("Retry-After")) || null });
}

export const get = (path, options) => ask("GET", path, options);
export const post = (path, body, options) => ask("POST", path, { ...options, body });

let looking = null;

/** Ask who is logged in; `session` then says it. */
export function lookAgain() {
  looking ??= get(SESSION).then((identity) => session.adopt(identity), () => {}).finally(() => { looking = null; });
  return looking;
}

/** A key that no other request has. (crypto.randomUUID is there over https only.) */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Keeps one key for one body, so that sending the same again is safe and sending another is another request. */
export class Keys {
  #body = null;
  #key = null;

  of(body) {
    const text = JSON.stringify(body);
    if (text !== this.#body) [this.#body, this.#key] = [text, newKey()];
    return this.#key;
  }
}
