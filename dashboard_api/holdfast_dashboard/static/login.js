// The way in: a token is traded for a session's cookie, which scripts cannot read. The token is kept nowhere.

import { post, Refusal } from "./api.js";
import { logOut } from "./who.js";

const form = document.getElementById("login");
const token = document.getElementById("token");
const go = document.getElementById("log-in");
const said = document.getElementById("token-error");

function refuse(words) {
  said.textContent = words;
  token.setAttribute("aria-invalid", "true");
  token.focus();
  token.select();
}

function inWords({ status, message, retryAfter }) {
  return status === 429 && retryAfter ? `${message} Try again in ${retryAfter} s.` : message;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (go.disabled) return;
  said.textContent = "";
  token.removeAttribute("aria-invalid");
  if (!token.value.trim()) {
    refuse("Paste or type a token.");
    return;
  }
  go.disabled = true;
  go.setAttribute("aria-busy", "true");
  try {
    await post("/login", { token: token.value.trim() });
    token.value = "";
    location.replace(document.body.dataset.next); // the server has looked that it is a page of ours
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) throw refusal;
    refuse(inWords(refusal));
  } finally {
    go.disabled = false;
    go.removeAttribute("aria-busy");
  }
});

document.getElementById("log-out")?.addEventListener("click", async () => {
  try {
    await logOut();
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) throw refusal;
    refuse(`Not logged out: ${refusal.message}`);
  }
});
