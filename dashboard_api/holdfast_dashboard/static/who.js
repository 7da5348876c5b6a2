// Who is logged in, beside the links; the way out; and, when the session has ended, nothing of what it had shown.

import { lookAgain, post, Refusal } from "./api.js";
import { button, h, put, visible } from "./dom.js";
import { notice } from "./notices.js";
import { session } from "./session.js";

/** End the session; every open page of this browser hears of it. Throws Refusal. */
export async function logOut() {
  await post("/logout");
  location.assign("/login");
}

async function leave(event) {
  const leaving = event.currentTarget;
  leaving.disabled = true;
  try {
    await logOut();
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) throw refusal;
    leaving.disabled = false;
    notice("warning", `Not logged out: ${refusal.message}`);
  }
}

/** Keeps the name beside the links. */
export function showWho() {
  const place = document.getElementById("session");
  const main = document.getElementById("page");
  const out = button("Log out", leave, { id: "log-out" });
  const name = h("strong", {});
  const role = h("span", { class: "quiet" });
  const show = () => {
    put(name, visible(session.name));
    put(role, session.role && ` · ${session.role}`);
    place.hidden = session.over || session.name === "";
    main.classList.toggle("over", session.over);
  };
  put(place, h("p", {}, name, role), out);
  session.addEventListener("change", show);
  show();
  // Somebody may have logged in elsewhere: that is asked when a page is looked at again, not all the time.
  const seen = () => session.over && !document.hidden && lookAgain();
  for (const name of ["focus", "pageshow", "online"]) addEventListener(name, seen);
  document.addEventListener("visibilitychange", seen);
}
