// Who is logged in, what they may do, and whether they still are. A page only does not offer what its user may not do:
// it is the server that refuses.

const ROLES = ["viewer", "producer", "operator", "admin"];

/** Fires `change` when one of these has changed. While authentication is disabled nobody has a name, and may do all. */
class Session extends EventTarget {
  /** The server knows nobody here any more. */
  over = false;
  name = "";
  #roles = new Set();
  #permissions = new Set();

  constructor({ user = "", roles = "", permissions = "" }) {
    super();
    this.#is(user, roles.split(" "), permissions.split(" "));
  }

  /** The role that contains the others; undefined where there is none. */
  get role() {
    return ROLES.findLast((role) => this.#roles.has(role));
  }

  /** Whether one may do this: the name of a permission, as the server calls it. */
  may(permission) {
    return this.#permissions.has(permission);
  }

  /** The server has said who is asking (`GET /api/session`). */
  adopt({ name, roles, permissions, provider }) {
    this.over = false;
    this.#is(provider === "disabled" ? "" : name, roles, permissions);
    this.#tell();
  }

  /** The server has said that it does not know who is asking. */
  end() {
    if (this.over) return;
    this.over = true;
    this.#tell();
  }

  #is(name, roles, permissions) {
    this.name = name;
    this.#roles = new Set(roles);
    this.#permissions = new Set(permissions);
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

export const session = new Session(document.body.dataset);

/** The way back to this page, for who is logged out. */
export const wayIn = () => `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
