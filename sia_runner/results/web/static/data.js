// What the server says, and when there is news.

const AGAIN = 3000; // milliseconds

export async function get(what, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const answer = await asked(`api/${what}?${new URLSearchParams(given)}`);
  if (!answer.ok) throw new Error(await reason(answer));
  return answer.json();
}

async function asked(address) {
  try {
    return await fetch(address);
  } catch {
    throw new Error("The dashboard's server does not answer. This page goes on when it does.");
  }
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
  let source = null, timer = 0;
  const listen = () => {
    stop();
    if (document.hidden) return;
    source = new EventSource(`api/events?${new URLSearchParams({ path })}`);
    source.addEventListener("open", () => show("live"));
    source.addEventListener("error", () => {
      show("no connection, trying again");
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(listen, AGAIN); // refused: the browser gives up
    });
    source.addEventListener("changed", changed);
  };
  const stop = () => { clearTimeout(timer); source?.close(); };
  document.addEventListener("visibilitychange", listen);
  listen();
  changed();
  return () => { document.removeEventListener("visibilitychange", listen); stop(); };
}

function show(state) {
  const shown = document.getElementById("connection");
  if (shown.textContent === state) return;
  shown.textContent = state;
  shown.className = state === "live" ? "live" : "lost";
}

// `work` is never under way twice; asked for meanwhile, it is done once more. Kept until all of it is done.
export function once(work) {
  let running = null, again = false;
  const all = async () => {
    try {
      do { again = false; await work(); } while (again);
    } finally {
      running = null;
    }
  };
  return () => {
    if (running) again = true;
    else running = all();
    return running;
  };
}
