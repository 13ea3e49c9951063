"""`make audit` against an advisory service of the test's own: what it finds is told, and what can't be asked is never a pass."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.processes import ROOT

_FOUND = {"id": "OSV-2026-1", "summary": "It bites.", "details": "", "affected": [], "aliases": [], "modified": "2026-01-01T00:00:00Z"}


class _Service(BaseHTTPRequestHandler):
    """Knows of one package that something is wrong with, or of none."""

    bitten = ""
    asked = 0

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["content-length"])))["package"]["name"]
        type(self).asked += 1
        said = json.dumps({"vulns": [_FOUND]} if wanted == self.bitten else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def audit(url: str) -> subprocess.CompletedProcess[str]:
    # Whatever environment the tests run in has been made already.
    words = ["make", "-o", ".venv/.tidemark-setup", "audit", "SERVICE=osv", f"ARGS=--osv-url {url}"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("bitten", ["", "click"])
def test_what_a_service_says_is_told(service: str, bitten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Service, "bitten", bitten)
    monkeypatch.setattr(_Service, "asked", 0)
    done = audit(service)
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and not line.startswith("#")]
    assert (done.returncode != 0, "OSV-2026-1" in done.stdout) == (bool(bitten), bool(bitten)), done
    if not bitten:
        assert _Service.asked == len(pins)
        assert "No known vulnerabilities found" in done.stdout


def test_a_service_that_is_away_is_no_pass() -> None:
    done = audit("http://127.0.0.1:9/")
    assert done.returncode != 0
    assert "nothing is known" in done.stderr
