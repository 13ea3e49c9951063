"""Certificates for servers of tests: an authority of the test's own, and what it has signed. By openssl, which every Debian has."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Signed:
    """Files in PEM.

    Attributes
    ----------
    ca : Path
        The authority's certificate: who trusts it trusts the others.
    certificate, key : Path
        Of 127.0.0.1 and localhost.
    other_ca : Path
        Of an authority that has signed nothing here.
    """

    ca: Path
    certificate: Path
    key: Path
    other_ca: Path


def sign(directory: Path) -> Signed:
    """Make an authority and a certificate of it."""
    directory.mkdir(parents=True, exist_ok=True)
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        _openssl(directory, "req", "-x509", *new, "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    _openssl(directory, "req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    _openssl(directory, "x509", "-req", "-days", "2", *authority, "-extfile", "names", "-in", "server.csr", "-out", "server.pem")
    return Signed(directory / "ca.pem", directory / "server.pem", directory / "server.key", directory / "other.pem")


def _openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=directory)
