// What the server says, and when there is news.

export async function get(what, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const answer = await fetch(`/api/${what}?${new URLSearchParams(given)}`);
  if (!answer.ok) throw new Error(await reason(answer));
  return answer.json();
}

async function reason(answer) {
  const said = await answer.text();
  try {
    return String(JSON.parse(said).detail ?? said);
  } catch {
    return said;
  }
}

// Calls `changed` at once and whenever the run (or the list, without a path) changed. Returns what ends it. A page that
// nobody sees listens to nothing: a browser has few connections to one server.
export function follow(path, changed) {
  const shown = document.getElementById("connection");
  let source = null;
  const listen = () => {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource(`/api/events?${new URLSearchParams({ path })}`);
    source.addEventListener("open", () => { shown.textContent = "live"; });
    source.addEventListener("error", () => { shown.textContent = "no connection, trying again"; });
    source.addEventListener("changed", changed);
  };
  document.addEventListener("visibilitychange", listen);
  listen();
  changed();
  return () => { document.removeEventListener("visibilitychange", listen); source?.close(); };
}

// `work` is never under way twice; asked for meanwhile, it is done once more.
export function once(work) {
  let busy = false, again = false;
  return async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      do { again = false; await work(); } while (again);
    } finally {
      busy = false;
    }
  };
}
