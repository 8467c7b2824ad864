"""The dashboard behind a reverse proxy that serves it below a path, as JupyterHub and Open OnDemand do."""

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.browser.conftest import MISSING, serving
from tests.results.writing import summary

expect = pytest.importorskip("playwright.sync_api", reason=MISSING).expect
pytestmark = pytest.mark.slow

PATH = "/user/x/proxy/8050"
CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    location {path}/ {{ proxy_pass http://127.0.0.1:{dashboard}{slash}; proxy_set_header Host hub.example; }}
  }}
}}
"""


@contextmanager
def nginx(folder, address, slash="/"):
    """The address of the dashboard behind nginx, which passes on the name hub.example; no `slash`: and the path."""
    if not (program := shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")):
        pytest.skip("NOT CHECKED: the dashboard behind a proxy: needs nginx (apt-get install nginx-light)")
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    values = {"folder": folder, "port": port, "path": PATH, "dashboard": urlsplit(address).port, "slash": slash}
    (folder / "nginx.conf").write_text(CONFIGURATION.format(**values))
    proxy = subprocess.Popen([program, "-e", folder / "errors", "-p", folder, "-c", folder / "nginx.conf"])
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert proxy.poll() is None, (folder / "errors").read_text()
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}{PATH}/"
    finally:
        proxy.terminate()
        proxy.wait(30)


@pytest.mark.parametrize(("slash", "options"), [("/", []), ("", [f"root_path={PATH}"])], ids=["taken-off", "left"])
def test_all_of_the_page_works_below_a_path(page, tmp_path, slash, options):
    runs = tmp_path / "runs"
    summary(runs / "first")
    with (
        serving(runs, tmp_path / "said", "allow_host=hub.example", *options) as address,
        nginx(tmp_path / "nginx", address, slash) as proxied,
    ):
        page.goto(f"{proxied}?{urlsplit(address).query}")
        page.get_by_role("link", name="first").wait_for()
        assert page.url.startswith(proxied) and "token" not in page.url
        (cookie,) = page.context.cookies()
        assert cookie["path"] == PATH  # not for other servers of this host
        summary(runs / "second")
        page.get_by_role("link", name="second").click()  # told by the event stream
        expect(page.get_by_role("heading", level=1)).to_contain_text("second")
        expect(page.locator("#connection")).to_have_text("live")
        assert page.url.startswith(f"{proxied}#/run/")


def test_a_name_that_was_not_allowed_is_refused_with_the_key_that_allows_it(tmp_path):
    summary(tmp_path / "runs" / "first")
    with (
        serving(tmp_path / "runs", tmp_path / "said") as address,
        nginx(tmp_path / "nginx", address) as proxied,
        pytest.raises(urllib.error.HTTPError) as refusal,
    ):
        urllib.request.urlopen(proxied, timeout=30)
    assert refusal.value.code == 421
    assert "allow_host=hub.example" in refusal.value.read().decode()
