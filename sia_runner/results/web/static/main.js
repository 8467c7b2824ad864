// Which page is shown: #/ is the list, #/?status=failed the same with filters, #/run/PATH a run.

import { h, replace } from "./dom.js";
import { showList } from "./list.js";
import { showRun } from "./run.js";

let leave = () => {};

function route(event) {
  if (location.hash && !location.hash.startsWith("#/")) return; // a place within the page
  const main = document.getElementById("main");
  leave();
  const run = location.hash.match(/^#\/run\/(.+)$/);
  try {
    leave = run ? showRun(main, decodeURIComponent(run[1])) : showList(main, location.hash.replace(/^#\/\??/, ""));
  } catch (error) {
    leave = () => {};
    replace(main, h("h1", {}, "This page cannot be shown"), h("p", {}, String(error.message)));
  }
  if (!event) return;
  main.focus();
  scrollTo(0, 0);
}

addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
route();
