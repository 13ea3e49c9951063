"""`tidemark evaluate served`: each pin that was ranked and seen counts once, with what came of it, for the base that ranked it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks._example_stream import partitioned, stream
from benchmarks._examples import examples
from flows.examples.record import EXAMPLES, HEADS
from flows.examples.rows import ExampleRows, batch_of
from flows.log import LocalLog
from tests.oracles import ranking as oracle
from tests.processes import front_door, settings_of

PARTITIONS = 2


@pytest.fixture
def made(tmp_path: Path) -> ExampleRows:
    """Examples of two bases and of none, all of whose records are in the log."""
    rng = np.random.default_rng(5)
    rows = examples(400, users=12, pins=90, per_request=5, actions=2, days=1, seed=5)
    once = np.unique(np.column_stack([np.arange(len(rows)) // 5, rows.pin_id]), axis=0, return_index=True)[1]
    rows = rows.take(np.sort(once))
    base = rng.choice([-1, 1, 2], len(set(rows.request_id.to_pylist())))[rows.request]
    score = np.where(base < 0, np.nan, rng.integers(0, 6, len(rows))).astype(np.float32)
    rows = replace(rows, base=base, score=score, explored=rng.random(len(rows)) < 0.2)
    with LocalLog.open(settings_of(tmp_path / "data").logs, EXAMPLES, PARTITIONS, create=True) as log:
        for p, part in enumerate(partitioned(stream(rows), PARTITIONS)):
            log.append([(p, batch_of(part, 0, p, 0))])
    return rows


def plainly(rows: ExampleRows, base: int, head: int) -> dict[str, float | None]:
    requests: dict[tuple[int, str], list[tuple[float, int]]] = {}
    for i in np.flatnonzero(rows.base == base):
        key = (int(rows.user_id[i]), rows.request_id[int(i)].as_py())
        requests.setdefault(key, []).append((float(rows.score[i]), int(rows.labels[i, head])))
    of = [(user, request, seen) for (user, request), seen in sorted(requests.items())]
    return {f"{name}@3": oracle.of_users(name, of, 3) for name in oracle.METRICS} | {
        "auc": oracle.auc([one for *_, seen in of for one in seen])
    }


def test_each_base_is_measured_by_what_it_ranked(made: ExampleRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, html = tmp_path / "scored.parquet", tmp_path / "page.html"
    asked = ("evaluate", "served", "--json", "--out", out, "--html", html)
    said = front_door(*asked, monkeypatch=monkeypatch, data=tmp_path / "data", partitions=PARTITIONS).json()
    ranked = made.base >= 0
    assert (said["rows"], said["unranked"]) == (int(ranked.sum()), int((~ranked).sum()))
    assert said["explored"] == int((ranked & made.explored).sum())
    assert set(said["bases"]) == {"1", "2"}
    for base in (1, 2):
        assert said["bases"][str(base)]["rows"] == int((made.base == base).sum())
        for i, head in enumerate(HEADS):
            found = said["bases"][str(base)]["heads"][head]["metrics"]
            for name, value in plainly(made, base, i).items():
                assert found[name]["value"] == (value if value is None else pytest.approx(value)), (base, head, name)
    assert "<svg" in html.read_text() or "<img" in html.read_text()
    again = front_door("evaluate", "scores", out, "--json", monkeypatch=monkeypatch, data=tmp_path / "none").json()
    assert again["scores"]["rows"] == said["rows"]
    assert set(pq.read_schema(out).names) > {"base", "label_revisit"}


def test_a_span_of_requests(made: ExampleRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = (int(time) for time in np.quantile(made.request_time, [0.3, 0.6]))
    asked = ("evaluate", "served", "--json", "--from", low, "--to", high)
    said = front_door(*asked, monkeypatch=monkeypatch, data=tmp_path / "data", partitions=PARTITIONS).json()
    within = (made.request_time >= low) & (made.request_time < high)
    assert (said["rows"], said["unranked"]) == (int((within & (made.base >= 0)).sum()), int((within & (made.base < 0)).sum()))


def test_where_nothing_was_ranked_a_line_says_so(made: ExampleRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("evaluate", "served", "--to", int(made.request_time.min()))
    done = front_door(*asked, monkeypatch=monkeypatch, code=None, data=tmp_path / "data", partitions=PARTITIONS)
    assert (done.code, done.out) == (1, "")
    assert "no final records of what a model has ranked" in done.err
    assert "Traceback" not in done.err
