"""A small web server on a Unix socket, where the gateway would be."""

import contextlib
import hashlib
import http.server
import os
import shutil
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sia_runner.records import GatewayAddress


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(http.server.BaseHTTPRequestHandler):
    """GET /hello, GET /stream (two halves, 0.3 s between), POST /echo (the body), POST /digest (a body without length,
    until the client says no more), POST /refuse (answers without reading the body)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = False  # a Unix socket has none

    def do_GET(self) -> None:
        if self.path == "/hello":
            return self._answer(b"hello")
        self.send_response(200)
        self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b"first,")
        time.sleep(0.3)
        self.wfile.write(b"second")
        return None

    def do_POST(self) -> None:
        if self.path == "/echo":
            return self._answer(self.rfile.read(int(self.headers["Content-Length"])))
        self.close_connection = True
        if self.path == "/refuse":
            return self._answer(b"too large")
        return self._answer(hashlib.sha256(self.rfile.read()).hexdigest().encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "the sandbox"

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serve(**env: str) -> Iterator[GatewayAddress]:
    """The address of it. Its folder may be passed by everybody and listed by nobody, as the gateway's own."""
    folder = Path(tempfile.mkdtemp(prefix="sia-gateway-"))
    folder.chmod(0o711)
    path = folder / "s"
    with _Server(os.fspath(path), _Handler) as server:
        path.chmod(0o666)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield GatewayAddress(path, {"GATEWAY": "{url}", **env})
        finally:
            server.shutdown()
            thread.join()
            shutil.rmtree(folder)
