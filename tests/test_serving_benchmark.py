"""The benchmark of serving runs, prints what the contract says, and refuses to time a wrong answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import _stream, serving
from benchmarks._measure import CheckFailedError
from flows.reading import FeatureReader
from flows.run.display import LiveDisplay
from flows.run.main_job import run_flows
from flows.settings import Settings
from online_model.serving.packing import Packer
from tests.serving.http import running


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = _stream.make(tmp_path_factory.mktemp("stream"), events=20_000, users=300, seed=5)
    with LiveDisplay(quiet=True) as display:
        run_flows(made, "all", False, 1, display)
    return made


@pytest.mark.slow
def test_it_prints_its_contract() -> None:
    options = ["--json", "--events", "20000", "--users", "300", "--seconds", "0.3", "--repeats", "2", "--clients", "3", "--seed", "5"]
    done = CliRunner().invoke(serving.main, options)
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert list(result) == ["benchmark", "results", "ratios", "machine", "seed"]
    assert (result["benchmark"], result["seed"], result["results"]["clients"]) == ("serving", 5, 3)
    assert set(result["ratios"]) == {"http_vs_reader_p50", "http_vs_reader_p99", "cpu_vs_reader"}
    assert result["results"]["rows_kept"] > 400
    assert result["results"]["log_bytes_per_row"] > 100
    assert result["results"]["requests_per_s"]["median"] > 0


def test_a_wrong_answer_is_never_timed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with FeatureReader(settings) as reader, running(settings) as server:
        pins = np.concatenate(list(reader.pin_rows(reader.default_as_of() or 0)))
        asked = serving.requests_of(reader, pins, 1)[:5]
        assert serving.check(reader, asked, server.client.port) > 1_000
        batch = Packer.batch

        def wrong(packer: Packer, request: object, answer: object) -> bytes:
            said = json.loads(batch(packer, request, answer))  # type: ignore[arg-type]
            said["pins"]["counters"]["revisits_click_all_7d_count"][-1] += 1
            return json.dumps(said).encode()

        monkeypatch.setattr(Packer, "batch", wrong)
        with pytest.raises(CheckFailedError, match="is not what the reader says"):
            serving.check(reader, asked, server.client.port)
        monkeypatch.setattr(serving, "_answer", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            serving.over_http(server.client.port, asked, 2, 0.1)
