// Tables whose rows stay while others come and go. On a narrow screen each row is a card.

import { h, keyed, replace } from "./dom.js";

// Columns: {name, cell(row) -> nodes or text, number, text, line}. The first column names its row. Roles are spelled out
// since a table drawn as cards is none to some browsers.
export function table(id, columns, key) {
  const caption = h("caption", {});
  const body = h("tbody", { role: "rowgroup" });
  const head = columns.map((column) => h("th", { scope: "col", role: "columnheader", class: kind(column) }, column.name));
  const whole = h("table", { class: "cards", id, role: "table" },
    caption, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), body);
  const element = h("div", { class: "wide", tabindex: "0", role: "region" }, whole);

  // `news`: rows that were not there before are new, and shown as such.
  function update(said, rows, news) {
    replace(caption, said);
    element.setAttribute("aria-label", said);
    keyed(body, rows, key, (row, old) => h("tr", { role: "row", class: news && !old ? "fresh" : null }, columns.map((column, at) => cell(column, row, at))));
  }
  return { element, update };
}

function cell(column, row, at) {
  const attributes = { class: kind(column), "data-name": column.name };
  return at === 0 ? h("th", { scope: "row", role: "rowheader", ...attributes }, column.cell(row))
    : h("td", { role: "cell", ...attributes }, column.cell(row));
}

function kind(column) {
  return ["number", "text", "line"].filter((name) => column[name]).join(" ") || null;
}
