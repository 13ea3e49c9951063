"""A Redis that asks for TLS, a user and a password: who has them gets in; who hasn't is told so in one line; and no secret is ever read anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.online.redis_server import RedisServer
from tests.ports import free_ports
from tests.processes import Simulated, refused, tidemark
from tests.tls import Signed, sign

pytestmark = pytest.mark.redis

USER, PASSWORD, WRONG = "tide", "hush-open-redis", "hush-wrong-redis"


@dataclass(frozen=True)
class Guarded:
    """The server's port for TLS, and what a client needs."""

    url: str
    signed: Signed


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One user may touch keys of Tidemark's; nobody gets in without a name."""
    directory = tmp_path_factory.mktemp("redis")
    signed, [port] = sign(directory / "tls"), free_ports(1)
    tls = ["--tls-port", port, "--tls-cert-file", signed.certificate, "--tls-key-file", signed.key, "--tls-ca-cert-file", signed.ca]
    users = ["--user", USER, "on", f">{PASSWORD}", "~tidemark.*", "&*", "+@all", "--requirepass", "hush-admin"]
    server = RedisServer(directory, *map(str, tls), "--tls-auth-clients", "no", *users)
    yield Guarded(f"rediss://localhost:{port}/0", signed)
    server.stop()


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_with_tls_user_and_password_everything_works_and_nothing_tells_them(
    guarded: Guarded, simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = written(tmp_path / "secret", PASSWORD, "")
    options = written(tmp_path / "options", f"username={USER}", f"password=file:{secret}", f"ssl_ca_certs={guarded.signed.ca}")
    of_state = tidemark("features", "user", 3, "--json", data=simulated.run).json()
    there = {"online": guarded.url, "online_options": options}
    said = []
    for command in (("online", "sync", "--json"), ("online", "status", "--json"), ("features", "user", 3, "--json")):
        done = tidemark(*command, data=simulated.run, **there)
        said += [done.out, done.err]
    assert done.json() == of_state
    assert PASSWORD not in "".join(said)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("username=tide", f"password={WRONG}", "ssl_ca_certs={ca}"), "invalid username-password pair"),
        (("ssl_ca_certs={ca}",), "check username and password"),
        (("username=tide", f"password={PASSWORD}", "ssl_ca_certs={other}"), "certificate verify failed"),
        (("username=tide", f"password={PASSWORD}"), "certificate verify failed"),
        (("username=tide", f"pasword={WRONG}"), "there is no option 'pasword'"),
        (("password=env:NOT_THERE",), "the environment variable NOT_THERE is not set"),
    ],
)
def test_who_is_not_let_in_is_told_and_no_secret(guarded: Guarded, tmp_path: Path, lines: tuple[str, ...], told: str) -> None:
    of = {"ca": guarded.signed.ca, "other": guarded.signed.other_ca}
    options = written(tmp_path / "options", *(line.format(**of) for line in lines))
    line = refused("features", "user", 3, data=tmp_path / "data", online=guarded.url, online_options=options)
    assert told in line
    assert WRONG not in line
    assert PASSWORD not in line


def test_other_keys_are_not_this_users(guarded: Guarded, simulated: Simulated, tmp_path: Path) -> None:
    options = written(tmp_path / "options", f"username={USER}", f"password={PASSWORD}", f"ssl_ca_certs={guarded.signed.ca}")
    line = refused("online", "sync", data=simulated.run, online=guarded.url, online_options=options, online_prefix="others.")
    assert "check username and password" in line
    assert PASSWORD not in line


@pytest.mark.parametrize(
    "url", [f"redis://{USER}:{WRONG}@localhost:6379/0", f"rediss://:{WRONG}@localhost/0", f"redis://localhost/0?password={WRONG}"]
)
def test_an_address_holds_no_secret(tmp_path: Path, url: str) -> None:
    line = refused("features", "user", 3, data=tmp_path / "data", online=url)
    assert "the file that 'online_options' names" in line
    assert WRONG not in line
