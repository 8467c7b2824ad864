// A unified difference with its line numbers.

import { empty, h } from "./dom.js";
import { count } from "./format.js";

// `against`: the generation it is compared with, or "".
export function difference(diff, against) {
  if (!diff.files.length) return empty(against ? `The program is that of generation ${against}.` : "There is no program yet.");
  return diff.files.map((file) => h("div", { class: "file" },
    h("h3", {}, h("span", { class: "path" }, file.path), " ", h("span", { class: "quiet" }, file.kind), " ",
      h("span", { class: "plus" }, `+${count(file.added)}`), " ", h("span", { class: "minus" }, `−${count(file.removed)}`)),
    file.note ? h("p", { class: "quiet" }, file.note) : h("pre", { class: "diff", tabindex: "0", "aria-label": `Difference of ${file.path}` }, numbered(file.lines)),
    file.cut ? h("p", { class: "quiet" }, `${count(file.cut)} more lines`) : null));
}

function numbered(lines) {
  let [old, now] = [0, 0];
  return lines.map((text) => {
    const hunk = text.match(/^@@ -(\d+)(?:,\d+)? \+(\d+)/);
    if (hunk) [old, now] = [Number(hunk[1]), Number(hunk[2])];
    const [sign] = text;
    const at = hunk ? ["", ""] : [sign === "+" ? "" : old++, sign === "-" ? "" : now++];
    const kind = hunk ? "place" : sign === "+" ? "added" : sign === "-" ? "removed" : null;
    return h("span", { class: kind, "data-at": at.map((number) => String(number).padStart(4)).join(" ") }, text || " ");
  });
}
