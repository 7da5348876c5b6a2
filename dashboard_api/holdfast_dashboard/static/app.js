// Begins each page: the feed, the banner, what was said before, who is logged in, and the page's own part.

import { showBanner } from "./banner.js";
import { h, put } from "./dom.js";
import { Feed } from "./feed.js";
import { showNotices } from "./notices.js";
import { showWho } from "./who.js";

const PAGES = new Set(["overview", "jobs", "job", "workers", "history"]);

const feed = new Feed();
showBanner(feed);
showNotices();
showWho();
feed.start();

const name = PAGES.has(document.body.dataset.page) ? document.body.dataset.page : "overview";
const main = document.getElementById("page");
try {
  const { page } = await import(`./${name}.js`);
  page(feed, main);
} catch (error) {
  // The banner above goes on: it must not hang on the rest of the page.
  put(main, h("p", { role: "alert" }, `This page could not be built: ${error.message} Loading it again may help.`));
  throw error;
}
