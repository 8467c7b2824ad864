// Elements are made one by one and texts put in as text: what a hostile program wrote never becomes markup.

const SVG = "http://www.w3.org/2000/svg";

export function h(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function s(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Puts new children in place of the old ones; whoever was at one of them stays at the one with the same id.
export function replace(parent, ...children) {
  const active = document.activeElement;
  const id = active && parent.contains(active) ? active.id : "";
  const [left, top] = [parent.scrollLeft, parent.scrollTop];
  parent.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  if (id) document.getElementById(id)?.focus({ preventScroll: true });
  parent.scrollTo?.(left, top);
}

// Columns: {name, cell(row) -> node or text, number, text}. The first column names its row.
export function table(caption, columns, rows, id) {
  const head = columns.map((column) => h("th", { scope: "col", class: kind(column) }, column.name));
  const body = rows.map((row) =>
    h("tr", {}, columns.map((column, at) =>
      at === 0 ? h("th", { scope: "row", class: kind(column) }, column.cell(row))
        : h("td", { class: kind(column), "data-name": column.name }, column.cell(row)))));
  const whole = h("table", { class: "stacks", id },
    h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption }, whole);
}

function kind(column) {
  return column.number ? "number" : column.text ? "text" : null;
}

export function badge(status) {
  return h("span", { class: `badge is-${status.split(" ")[0].replace(/[^a-z_]/g, "")}` }, status);
}

export function say(text) {
  document.getElementById("news").textContent = text;
}
