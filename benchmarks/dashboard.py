"""Measures the live dashboard with many runs and a large one, and sia-agent's on the same folder.

python benchmarks/dashboard.py [--runs 1000] [--trajectories 200000] [--alone] [--keep FOLDER]

`--alone`: without sia-agent's. `--keep`: make the runs there and leave them; existing ones are used again.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from _dashboard_browser import shown
from _dashboard_server import Server, free_port, serving
from _dashboard_tree import make
from _peer import NoPeer, Peer
from _table import aligned
from _watch import environment

ROUNDS = 15
WATCHED = 20.0  # seconds of a page that is open while nothing happens
Figures = dict[str, str]


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="sia-dashboard-") as folder:
        root = args.keep or Path(folder)
        record = root / "made.json"
        settings = [args.runs, args.trajectories]
        there = json.loads(record.read_text()) if record.is_file() else {}
        if there.get("asked") != settings or (there["alone"] and not args.alone):
            print(f"writing {args.runs:,} runs and {args.trajectories:,} trajectories ...", flush=True)
            make(root / "runs", args.runs, args.trajectories, peer=not args.alone)
            record.write_text(json.dumps({"asked": settings, "alone": args.alone}))
        large, call = f"run_{args.runs + 1}", args.trajectories // 2
        columns = {"sia-runner": _ours(root / "runs", large, call)}
        if not args.alone:
            columns[Peer.name] = _theirs(root / "runs", large, call)
    print(f"\nPython {platform.python_version()}, {platform.system()} {platform.release()}\n")
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    print(
        aligned([["figure", *columns], *([name, *(of.get(name, "none") for of in columns.values())] for name in names)])
    )


def _ours(root: Path, large: str, call: int) -> Figures:
    port = free_port()
    command = [sys.executable, "-m", "sia_runner", "web", f"runs_dir={root}", f"port={port}"]
    began = time.perf_counter()
    with serving(command, environment(), port) as server:
        figures = {"start of the command to the first page (s)": f"{time.perf_counter() - began:.2f}"}
        figures |= _asked(server, "list of runs", "/api/runs")
        figures |= _asked(server, "search in the list", "/api/runs?q=lawbench+w")
        figures |= {"read for one refresh of the list (MiB)": _refreshed(server, "/api/runs")}
        figures |= shown("for comparison: an icon alone, in Chromium", f"{server.url}/static/icon.svg", "svg")
        figures |= shown("list in Chromium, until its rows are there", f"{server.url}/", "#run-table tbody tr")
        figures |= _asked(server, "page of the large run", f"/api/run?path={large}")
        rows = "#generation-table tbody tr"
        figures |= shown("the same in Chromium, until its generations are there", f"{server.url}/#/run/{large}", rows)
        began = time.perf_counter()
        while not json.loads(server.get(f"/api/run?path={large}")[1])["counted"]:
            pass
        figures["all its ledger added up, afterwards (s)"] = f"{time.perf_counter() - began:.1f}"
        questions = f"/api/run/questions?path={large}&place=gen_1"
        first, answer = server.get(questions)
        began = time.perf_counter()
        while not json.loads(answer)["read"]["whole"]:
            _, answer = server.get(questions)
        page = json.loads(answer)
        figures["first trajectories of it (s)"] = f"{first:.3f}"
        figures["all its trajectories indexed, afterwards (s)"] = f"{time.perf_counter() - began:.1f}"
        figures["indexed questions"] = f"{sum(page['kinds'].values()):,}"
        figures |= _asked(server, "trajectories of a kind, a later page", f"{questions}&kind=wrong&start={call // 20}")
        number = json.loads(answer)["rows"][0]["number"]
        figures |= _asked(server, "calls of a question", f"/api/run/calls?path={large}&place=gen_1&number={number}")
        figures |= _asked(server, "full text of a call", f"/api/run/call?path={large}&place=gen_1&at={call}")
        figures |= {"read for one refresh of its page (MiB)": _refreshed(server, f"/api/run?path={large}")}
        figures |= {"read when one more model call ended (KiB)": _one_more(server, root / large, questions)}
        figures |= _idle(server, large)
        return figures | {"memory, highest (MiB)": f"{server.memory():.0f}"}


def _theirs(root: Path, large: str, call: int) -> Figures:
    try:
        peer = Peer()
    except NoPeer as missing:
        print(missing)
        return {}
    port = free_port()
    command = [*peer.help()[:1], "web", "--runs-dir", str(root), "--port", str(port), "--no-browser"]
    began = time.perf_counter()
    with serving(command, peer.environment(), port) as server:
        figures = {"start of the command to the first page (s)": f"{time.perf_counter() - began:.2f}"}
        figures |= _asked(server, "list of runs", "/api/runs", 3)
        figures |= {"read for one refresh of the list (MiB)": _refreshed(server, "/api/runs")}
        figures |= _asked(server, "page of the large run", f"/api/runs/{large}", 3)
        figures |= {"read for one refresh of its page (MiB)": _refreshed(server, f"/api/runs/{large}")}
        figures |= _asked(server, "full text of a call", f"/api/runs/{large}/gens/gen_1/trajectory/{call}")
        return figures | {"memory, highest (MiB)": f"{server.memory():.0f}"}


def _asked(server: Server, name: str, path: str, rounds: int = ROUNDS) -> Figures:
    first, _ = server.get(path)
    later = [server.get(path)[0] for _ in range(rounds)]
    return {f"{name}, first / later (s)": f"{first:.3f} / {statistics.median(later):.3f} (≤ {max(later):.3f})"}


def _refreshed(server: Server, path: str) -> str:
    """MiB that it read to say again what it said a moment ago."""
    time.sleep(1.5)  # ours looks at files once a second
    before = server.read()
    server.get(path)
    return f"{server.read() - before:.3f}"


def _one_more(server: Server, run: Path, questions: str) -> str:
    """The last call once more, as if it had just been written."""
    calls = run / "gen_1" / "trajectories.jsonl"
    with calls.open("rb+") as file:
        file.seek(-4096, 2)
        line = file.readlines()[-1]
        file.write(line)
    before = server.read()
    server.get(questions)
    return f"{(server.read() - before) * 1024:.1f}, the line {len(line) / 1024:.1f}"


def _idle(server: Server, large: str) -> Figures:
    """Measure what two open pages cost while nothing happens: the list's and the large run's."""
    for path in ("", large):
        threading.Thread(target=_listen, args=(f"{server.url}/api/events?path={path}",), daemon=True).start()
    time.sleep(3)
    before, cpu, began = server.read(), server.cpu(), time.monotonic()
    time.sleep(WATCHED)
    seconds = time.monotonic() - began
    return {
        "read with two pages open, nothing new (KiB/s)": f"{(server.read() - before) * 1024 / seconds:.0f}",
        "processor meanwhile (%)": f"{(server.cpu() - cpu) / seconds * 100:.1f}",
    }


def _listen(url: str) -> None:
    with suppress(OSError), urllib.request.urlopen(url) as stream:
        for _ in stream:
            pass


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--trajectories", type=int, default=200_000)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--keep", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
