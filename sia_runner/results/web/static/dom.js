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
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(3).filter((child) => child !== null && child !== undefined && child !== false);
}

// Puts new children in place of the old ones; whoever was at one of them stays at the one with the same id.
export function replace(parent, ...children) {
  const active = document.activeElement;
  const id = active && parent.contains(active) ? active.id : "";
  const [left, top] = [parent.scrollLeft, parent.scrollTop];
  parent.replaceChildren(...nodes(children));
  if (id) document.getElementById(id)?.focus({ preventScroll: true });
  parent.scrollTo?.(left, top);
}

const drawn = new WeakMap(); // parent -> key -> {said, element}

// One element for each item, in order. An element whose item is as it was stays, with its focus, what is selected in it
// and what was opened; `make(item, old)` may change the old one and return it.
export function keyed(parent, items, key, make) {
  const old = drawn.get(parent) ?? new Map();
  const now = new Map();
  const id = parent.contains(document.activeElement) ? document.activeElement.id : "";
  for (const item of items) {
    const [name, said] = [key(item), JSON.stringify(item)];
    const kept = old.get(name);
    now.set(name, kept?.said === said ? kept : { said, element: make(item, kept?.element) });
  }
  const wanted = new Set([...now.values()].map((one) => one.element));
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const element of wanted) {
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
  if (id && document.activeElement?.id !== id) document.getElementById(id)?.focus({ preventScroll: true });
  drawn.set(parent, now);
}

// A caller for each place of the page that draws it anew when what it shows is not what it showed.
export function drawing() {
  const shown = new Map();
  return (place, data, make) => {
    const now = JSON.stringify(data);
    if (shown.get(place) === now) return;
    shown.set(place, now);
    replace(place, make());
  };
}

export function badge(status, said = status) {
  return h("span", { class: `badge is-${status.split(" ")[0].replace(/[^a-z_]/g, "")}` }, said);
}

export function fault(error) {
  return h("p", { class: "fault", role: "alert" }, error.message);
}

export function empty(text, more) {
  return h("p", { class: "empty", ...more }, text);
}

// To whoever reads with a screen reader; one sentence, when something happened that was waited for.
export function say(text) {
  document.getElementById("news").textContent = text;
}
