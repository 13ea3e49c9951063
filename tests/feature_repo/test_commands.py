"""Feast's own commands, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from feast.repo_operations import get_repo_files

from feature_repo.reading import open_store
from feature_repo.repository import REPOSITORY
from flows.features import USER_COUNTERS
from flows.reading import FeatureReader
from flows.settings import Settings
from tests import driving
from tests.feature_repo.fake import VIEWS
from tests.ports import free_ports
from tests.strategies import random_stream

# The command itself is `from feast.cli.cli import cli; cli()`; our import before it saves seconds. A warning of our code is an error.
FEAST = (
    "import feature_repo, warnings; warnings.filterwarnings('error', module=r'(feature_repo|flows)'); from feast.cli.cli import cli; cli()"
)


def environment(data: Path, **variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMARK_")}
    return {**inherited, "PYTHONPATH": str(REPOSITORY.parent), "TIDEMARK_DATA": str(data), **variables}


def feast_command(data: Path, *arguments: str, cwd: Path = REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    """The `feast` command in the repository."""
    command = [sys.executable, "-c", FEAST, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment(data, **variables), capture_output=True, text=True, timeout=120, check=False)


# Several in one process, each with its own exit code and words: most of what one takes is its imports.
MANY = """
import feature_repo, json, sys
from click.testing import CliRunner
from feast.cli.cli import cli
said = [CliRunner().invoke(cli, arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps([[one.exit_code, one.stdout, one.stderr] for one in said]))
"""


def feast_commands(data: Path, *commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Some `feast` commands in the repository, one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", MANY, json.dumps(commands)],
        cwd=REPOSITORY,
        env=environment(data),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    return [subprocess.CompletedProcess(arguments, *one) for arguments, one in zip(commands, said, strict=True)]


@contextmanager
def feast_server(data: Path, *arguments: str, port: int) -> Iterator[str]:
    """One of Feast's servers, once it answers; its address."""
    command = [sys.executable, "-c", FEAST, *arguments, "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with open(data / "server.log", "wb") as said:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(data), stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 90
            while True:
                try:
                    request("GET", address + "/health")
                    break
                except OSError:
                    assert process.poll() is None, (data / "server.log").read_text()
                    assert time.monotonic() < deadline, (data / "server.log").read_text()
                    time.sleep(0.1)
            yield address
        finally:
            # It and its workers, which are of its session alone.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def request(method: str, address: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Status and what came back."""
    host = urlsplit(address)
    with closing(HTTPConnection(host.hostname or "", host.port, timeout=60)) as connection:
        connection.request(method, host.path or "/", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with state, applied."""
    settings = Settings(data=tmp_path_factory.mktemp("site") / "data")
    rng = np.random.default_rng(3)
    driving.write(settings, random_stream(3, 1000, partitions=8, users=20, pins=20, days=30), rng)
    driving.apply(settings, rng)
    applied = feast_command(settings.data, "apply")
    assert applied.returncode == 0, applied.stderr
    return settings.data


def test_feast_apply_sees_the_definitions_alone() -> None:
    assert [path.name for path in get_repo_files(REPOSITORY)] == ["definitions.py"]


def test_feast_command(tmp_path: Path) -> None:
    applied = feast_command(tmp_path / "data", "apply")
    assert applied.returncode == 0, applied.stderr
    assert "WARNING" not in applied.stderr
    assert os.listdir(tmp_path / "data") == ["registry.db"]
    listed = feast_command(Path("data"), "--chdir", str(REPOSITORY), "feature-views", "list", cwd=tmp_path)
    assert all(view in listed.stdout for view in VIEWS), listed.stderr
    planned, sources, described, services = feast_commands(
        tmp_path / "data",
        ["plan"],
        ["data-sources", "list"],
        ["data-sources", "describe", "user_action_sequence"],
        ["feature-services", "list"],
    )
    assert (planned.returncode, planned.stdout) == (0, "No changes to registry\nNo changes to infrastructure\n"), planned.stderr
    assert all(f"{view} " in sources.stdout and f"{view}_export " in sources.stdout for view in VIEWS), sources.stderr
    assert "a push is refused" in " ".join(described.stdout.split()), described.stderr
    assert all(name in services.stdout for name in ("ranking_v1", "ranking_v1_user", "ranking_v1_candidate")), services.stderr
    # Both ways of opening agree on what is applied.
    before = (tmp_path / "data" / "registry.db").read_bytes()
    open_store(Settings(data=tmp_path / "data"))
    assert (tmp_path / "data" / "registry.db").read_bytes() == before


def test_importing_this_package_leaves_torch_and_warning_filters_alone() -> None:
    program = (
        "import sys, types, warnings; before = list(warnings.filters); import feature_repo, typeguard, feast;"
        "assert 'torch' not in sys.modules; assert list(warnings.filters) == before;"
        "assert typeguard.typechecked.__module__.startswith('typeguard');"
        "sys.modules['torch'] = types.ModuleType('torch'); "
        "from feast.online_response import get_torch; assert get_torch() is sys.modules['torch']"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_materialize_incremental_reports_positions(data: Path) -> None:
    with FeatureReader(Settings(data=data)) as reader:
        positions, as_of = reader.positions(), reader.default_as_of()
    for told in feast_commands(data, *[["materialize-incremental", datetime.now(UTC).isoformat()]] * 2):
        assert (told.returncode, told.stderr) == (0, "")
        for view in VIEWS:
            flow = "revisits" if view.startswith("pin") else "actions"
            reflects = ", ".join(f"{flow}/{p}: {position}" for p, position in enumerate(positions[flow]))
            assert (
                f"{view}: nothing to write, the flows keep it current (`tidemark run`); it reflects the positions {reflects}" in told.stdout
            )
        assert told.stdout.count(f"UTC ({as_of})") == len(VIEWS)


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (
            ["materialize-incremental", "2026-02-01T00:00:00"],
            {"TIDEMARK_ALLOWED_LATENESS_MS": "1"},
            "fingerprint",
        ),
        (["apply"], {"TIDEMARK_PARTITIONS": "none"}, "TIDEMARK_PARTITIONS is 'none'"),
        (["apply"], {"TIDEMARK_PARTITION": "2"}, "partitions"),
        (
            ["get-online-features", "-e", "user_id=x", "-f", "user_action_sequence:sequence_pin_id"],
            {},
            "user_id is 'x' (str); an ID is a whole number",
        ),
    ],
)
def test_what_is_wrong_is_a_line_and_no_traceback(data: Path, arguments: list[str], variables: dict[str, str], message: str) -> None:
    ended = feast_command(data, *arguments, **variables)
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("Error: ")
    assert message in ended.stderr
    assert ended.returncode in (1, 2)


def test_a_registry_of_another_version_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"\xff not a registry")
    for ended in feast_commands(tmp_path, ["apply"], ["feature-views", "list"], ["plan"]):
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
        assert ended.stderr.startswith(f"Error: registry {tmp_path / 'registry.db'} can't be read by Feast")


@pytest.mark.slow
def test_feast_serve(data: Path) -> None:
    [port] = free_ports(1)
    settings = Settings(data=data)
    with FeatureReader(settings) as reader:
        slices = [one for p in range(8) for one in reader.user_slices(p, 2**62)]
        user = int(np.concatenate([one.sequences for one in slices])[0, 0])
        pins = reader.user_sequences(np.array([user])).pin_id.tolist()
    with feast_server(data, "serve", port=port) as address:
        asked = {"feature_service": "ranking_v1_user", "entities": {"user_id": [user, 404]}}
        status, body = request("POST", address + "/get-online-features", asked)
        assert status == 200, body
        answer = json.loads(body)
        place = answer["metadata"]["feature_names"].index("sequence_pin_id")
        assert answer["results"][place]["values"] == [pins, None]
        assert answer["results"][place]["statuses"] == ["PRESENT", "NOT_FOUND"]
        for wrong, expected, message in (
            (asked | {"feature_service": "none"}, 404, "none does not exist"),
            (asked | {"entities": {"user_id": ["x"]}}, 400, "user_id is 'x' (str)"),
            (asked | {"entities": {"pin_id": [1]}}, 400, "lack user_id"),
        ):
            status, body = request("POST", address + "/get-online-features", wrong)
            assert (status, message in body.decode()) == (expected, True), body
        row: dict[str, list[Any]] = {"user_id": [user], "event_timestamp": ["2026-02-01T00:00:00Z"]}
        complete = row | {name: [1] for name in USER_COUNTERS}
        for values in (complete, row, {name: [] for name in complete}, {}):
            for to in ("online", "offline", "online_and_offline"):
                pushed = request("POST", address + "/push", {"push_source_name": "user_revisit_counters", "df": values, "to": to})
                assert (pushed[0], b"a push is refused. Its values are task state" in pushed[1]) == (409, True), pushed
            written = request("POST", address + "/write-to-online-store", {"feature_view_name": "user_revisit_counters", "df": values})
            assert (written[0], b"a write to the online store is refused" in written[1]) == (409, True), written
        status, body = request("POST", address + "/materialize-incremental", {"end_ts": "2026-02-01T00:00:00"})
        assert status == 200, body


@pytest.mark.slow
def test_feast_ui(data: Path) -> None:
    [port] = free_ports(1)
    with feast_server(data, "ui", port=port) as address:
        status, page = request("GET", address)
        assert (status, b"<title>" in page) == (200, True), page[:500]
