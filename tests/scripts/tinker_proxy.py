"""A proxy before a server of the Tinker protocol, which changes requests or answers them itself, as a test wants."""

import http.client
import http.server
import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

Body = dict[str, Any]
Answer = tuple[int, Body]  # status and body
Change = Callable[
    [str, Body, str], Body | Answer
]  # path after /api/v1/, body, key -> the body to send on, or an answer
_HOP = ("host", "content-length", "connection", "transfer-encoding", "accept-encoding")


class TinkerProxy:
    """Listens while it is entered; `url` is its address. A change of None passes everything on."""

    def __init__(self, server: str, change: Change | None = None) -> None:
        outer, place = self, urlsplit(server)
        self.change = change
        self.counts: dict[str, int] = {}  # requests by path
        self._closed = False

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._pass_on(b"")

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.rpartition("/api/v1/")[2]
                outer.counts[path] = outer.counts.get(path, 0) + 1
                if outer.change is not None:
                    changed = outer.change(path, json.loads(data or b"{}"), self.headers.get("X-API-Key") or "")
                    if isinstance(changed, tuple):
                        self._answer(changed[0], json.dumps(changed[1]).encode(), {"Content-Type": "application/json"})
                        return
                    data = json.dumps(changed).encode()
                self._pass_on(data)

            def _pass_on(self, data: bytes) -> None:
                if outer._closed:  # of a connection that was open
                    self.close_connection = True
                    return
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
                connection = http.client.HTTPConnection(str(place.hostname), place.port)
                try:
                    connection.request(self.command, self.path, data or None, headers)
                    answer = connection.getresponse()
                    body = answer.read()
                except OSError:
                    self.close_connection = True
                    return
                finally:
                    connection.close()
                self._answer(answer.status, body, dict(answer.getheaders()))

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "TinkerProxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer nothing any more, as a server that is gone."""
        if not self._closed:
            self._closed = True
            self._server.shutdown()
            self._server.server_close()


def without_adapters(base: str) -> Change:
    """Return the change that has a server answer all samples with the base, whatever the weights asked for."""

    def change(path: str, body: Body, key: str) -> Body:
        if path == "asample":
            kept = {name: body[name] for name in body if name not in ("sampling_session_id", "seq_id", "model_path")}
            return kept | {"base_model": base}
        return body

    return change


def with_key(expected: str) -> Change:
    """Return the change that has a server ask for a key."""
    return lambda path, body, key: body if key == expected else (401, {"detail": f"Invalid API key {key}"})


def refusing(refused: str, status: int, detail: str) -> Change:
    """Return the change that has a server refuse the requests of one path."""
    return lambda path, body, key: (status, {"detail": detail}) if path == refused else body
