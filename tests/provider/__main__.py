"""``python -m tests.provider FILE.py:function [--port P]``: the server in a process of its own, until its standard
input ends or it is told to stop. Its first line is the base_url; GET /tally (beside /v1) is the tally as JSON."""

import argparse
import importlib.util
import sys
from pathlib import Path

from tests.provider.answers import Script
from tests.provider.server import ProviderServer


def load(what: str) -> Script:
    path, _, name = what.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("script", help="FILE.py:function")
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    with ProviderServer(load(args.script), port=args.port) as server:
        print(server.base_url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
