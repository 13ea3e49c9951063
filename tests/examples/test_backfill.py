"""Examples of a history equal the oracle's, whatever is held together; features are those of the request's own moment."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import InputError
from flows.examples.backfill import target
from flows.examples.backfill.drafts import What
from flows.examples.backfill.run import Backfill
from flows.examples.files import ExampleDirectory
from flows.examples.record import EXAMPLES
from flows.examples.rows import ExampleRows, rows_of
from flows.log import LocalLog, LogBatch
from flows.settings import Settings
from replay.rebuild.request import Request
from replay.rebuild.scan import Scope
from tests.examples.histories import backfilled, decided_of, history, told, with_requests, write
from tests.examples.test_rows import values_of
from tests.oracles.examples_of_history import FINAL, NEGATIVE, POSITIVE, Example, examples
from tests.oracles.records import DAY, log, record, save, seen
from tests.point_in_time.asking import Oracle
from tests.processes import PARTITIONS as OF_PROCESSES
from tests.processes import Simulated, settings_of, tidemark
from tests.replay.correcting import Site, excluded, excluded_as_it_was
from tests.strategies import HOUR, MINUTE, adversarial

PARTITIONS = 2
LATENESS = [HOUR, 0, 10 * MINUTE, 2 * HOUR]
SEEDS = range(10)


def settings_in(directory: Path, seed: int = 0, **more: int) -> Settings:
    return Settings(data=directory / "data", partitions=PARTITIONS, allowed_lateness_ms=LATENESS[seed % 4], **more)


@pytest.fixture(scope="module", params=SEEDS)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Settings, pd.DataFrame]]:
    """A history, written, and what the judge's oracle says of it."""
    seed = request.param
    settings = settings_in(tmp_path_factory.mktemp("history"), seed)
    events = history(seed, 220, PARTITIONS, lateness_ms=settings.allowed_lateness_ms)
    write(settings, events, seed)
    yield seed, settings, decided_of(events, allowed_lateness_ms=settings.allowed_lateness_ms)
    shutil.rmtree(settings.data)


def said(found: dict[int, ExampleRows]) -> dict[int, list[Example]]:
    return {partition: told(rows) for partition, rows in found.items()}


def wanted(decided: pd.DataFrame, delay: int = 0, all_kinds: bool = True) -> dict[int, list[Example]]:
    return {partition: rows for partition, rows in examples(decided, delay, all_kinds).items() if rows}


def test_records_equal_the_oracle(played: tuple[int, Settings, pd.DataFrame]) -> None:
    seed, settings, decided = played
    delay = [0, 1, 5000][seed % 3]
    assert said(backfilled(settings, What(delay, all_kinds=True))) == wanted(decided, delay)
    assert said(backfilled(settings, What(delay))) == wanted(decided, delay, all_kinds=False)


def test_the_histories_have_all_of_it() -> None:
    of_kind: Counter[int] = Counter()
    heads: Counter[tuple[int, int]] = Counter()
    for seed in SEEDS:
        decided = decided_of(history(seed, 220, PARTITIONS, lateness_ms=LATENESS[seed % 4]), allowed_lateness_ms=LATENESS[seed % 4])
        for rows in wanted(decided).values():
            of_kind.update(row.kind for row in rows)
            heads.update((row.kind, head) for row in rows for head, label in enumerate(row.labels) if label == 1)
    assert min(of_kind[kind] for kind in (NEGATIVE, POSITIVE, FINAL)) > 50
    assert all(heads[kind, head] > 2 for kind in (POSITIVE, FINAL) for head in range(5)), heads


def test_features_are_those_before_the_request(played: tuple[int, Settings, pd.DataFrame]) -> None:
    seed, settings, decided = played
    oracle = Oracle(decided)
    actions, surfaces = settings.load_vocabulary().action_names(), settings.load_vocabulary().surface_names()
    for rows in backfilled(settings, What([0, MINUTE][seed % 2])).values():
        for i in range(len(rows)):
            as_of, users, of = int(rows.as_of[i]), rows.users, int(rows.request[i])
            sequence, counters = oracle.user(int(rows.user_id[i]), as_of, as_of + 1)
            entries = users.sequence[users.offsets[of] : users.offsets[of + 1]]
            got = [(e["pin_id"], actions[e["action"]], surfaces[e["surface"]], e["event_time"], e["duration_ms"]) for e in entries]
            assert got == sequence
            assert users.counters[of].tolist() == counters
            assert rows.pin_counters[i].tolist() == oracle.pin(int(rows.pin_id[i]), as_of, as_of + 1)[0]


def test_what_is_held_together_changes_nothing(played: tuple[int, Settings, pd.DataFrame]) -> None:
    seed, settings, _ = played
    rng = np.random.default_rng(seed)
    whole = backfilled(settings, What(all_kinds=True))
    smaller = settings_in(settings.data.parent, seed, batch_records=int(rng.integers(1, 20)))
    sizes = {"slice_records": int(rng.integers(10, 80)), "span_requests": int(rng.integers(1, 12)), "span_rows": int(rng.integers(1, 40))}
    again = backfilled(smaller, What(all_kinds=True), **sizes)
    assert {p: values_of(rows) for p, rows in again.items()} == {p: values_of(rows) for p, rows in whole.items()}


def test_a_span_of_time(played: tuple[int, Settings, pd.DataFrame]) -> None:
    _, settings, decided = played
    whole = wanted(decided)
    times = sorted(row.request_time for rows in whole.values() for row in rows)
    first, until = times[len(times) // 3], times[2 * len(times) // 3]
    kept = {p: [row for row in rows if first <= row.request_time < until] for p, rows in whole.items()}
    assert said(backfilled(settings, What(0, True, first, until))) == {p: rows for p, rows in kept.items() if rows}


@pytest.mark.parametrize("scoped", [False, True])
def test_corrections_are_followed(scoped: bool, tmp_path: Path) -> None:
    site = Site.of(tmp_path, with_requests(adversarial(5, 240, PARTITIONS), 5), 5, PARTITIONS)
    site.write(1.0)
    before = said(backfilled(site.settings, What(all_kinds=True)))
    users = np.unique(site.events["user_id"])[:3]
    site.rebuild(Request(site.tasks(), exclude="action == 'save'", scope=Scope(users=users) if scoped else Scope()))
    gone = (site.events["action"] == "save").to_numpy()
    if scoped:
        gone &= site.events["user_id"].isin(users).to_numpy() & ~site.events["bad"].to_numpy()
        corrected = excluded_as_it_was(site.events, gone, PARTITIONS, len(site.events))
    else:
        corrected = excluded(site.events, gone)
    found = said(backfilled(site.settings, What(all_kinds=True)))
    assert found == wanted(decided_of(corrected)) != before


def shown(time: int, pin: int, request: str = "", **fields: object) -> dict[str, object]:
    return record(time, "impression", pin_id=pin, request_id=request, **fields)


def test_a_worked_example(tmp_path: Path) -> None:
    """The example of docs/semantics.md."""
    events = log(
        record(-HOUR, "click", pin_id=5, request_id=""),
        shown(0, 70, "r1"),
        shown(200, 71, "r1"),
        record(5_000, "click", pin_id=70, request_id="r1"),
        save(9_000, pin_id=71, request_id="r1"),
        record(8 * MINUTE, "hide", pin_id=70, request_id=""),  # names no request: of none
        seen(2 * HOUR, pin_id=71, request_id=""),
        record(8 * DAY, "closeup", pin_id=1, request_id=""),
    ).assign(request_id=["", "r1", "r1", "r1", "r1", "", "", ""])
    settings = Settings(data=tmp_path / "data", partitions=1)
    write(settings, events)
    start = int(events["event_time"][1])
    rows = told(backfilled(settings, What(1_000))[0])
    assert [(r.pin_id, r.labels, r.ready_time - start) for r in rows] == [
        (70, (1, 0, 0, 0, 0), 2 * HOUR),
        (71, (0, 0, 1, 0, None), 2 * HOUR),
        (71, (None, None, None, None, 1), 8 * DAY),
    ]
    assert {r.request_time - start for r in rows} == {0}
    assert {r.as_of - start for r in rows} == {-1_001}


def test_without_impressions_it_is_refused(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", partitions=1)
    write(settings, log(save(0), save(5_000, pin_id=3)).assign(request_id=""))
    with pytest.raises(InputError, match=r"holds no impressions.*save 2.*ingest what was shown"):
        backfilled(settings, What())
    ended = tidemark("backfill", data=settings.data, partitions=1, code=1)
    assert ended.err.count("\n") == 1
    assert not (settings.logs / "examples.db").exists()


# Simulated, by the command ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(simulated: Simulated, tmp_path: Path) -> Path:
    shutil.copytree(simulated.ingested, tmp_path / "data")
    return tmp_path / "data"


def records(data: Path) -> dict[int, pa.Table]:
    with LocalLog.open(data / "logs", EXAMPLES, read_only=True) as found:
        parts = {p: found.read(p, 0, 1 << 20) for p in range(found.partitions)}
    return {p: pa.Table.from_batches([b.records for b in batches]) for p, batches in parts.items() if batches}


def test_a_simulated_stream_gives_its_truth(simulated: Simulated, data: Path) -> None:
    served = simulated.directory / "served.parquet"
    summary = tidemark("backfill", "--served", served, "--json", data=data).json()
    # Every save follows an impression at once, and is of one request: so each that matured is one row, with the truth's label. Not so the few
    # whose impression was late.
    truth = pq.read_table(simulated.directory / "truth-labels.parquet").to_pandas()
    matured = truth[truth["matured"]]
    revisited = matured[["label_1dRevImpre", "label_1dRevGrid", "label_7dRevGrid"]].any(axis=1)
    rows = {p: rows_of(table.to_batches(), "") for p, table in records(data).items()}
    of_saves = [r.take((r.labels[:, 2] == -1) & (r.kind == FINAL)) for r in rows.values()]
    found = Counter((int(u), int(p), int(label)) for r in of_saves for u, p, label in zip(r.user_id, r.pin_id, r.labels[:, 4], strict=True))
    true = Counter(zip(matured["user_id"], matured["pin_id"], revisited.astype(int), strict=True))
    assert not found - true
    assert 0 < (true - found).total() < 0.1 * true.total()
    assert summary["labels"]["revisit"][1] == sum(n for (_, _, label), n in found.items() if label) > 0
    assert summary["added"] == summary["rows"] == sum(map(len, rows.values())) > 1000

    # Slots and propensities are those of the file.
    offered = pq.read_table(served).to_pandas().explode(["candidates", "slots", "propensities", "shown"])
    known = offered.set_index(["user_id", "request_id", "candidates"])
    for r in rows.values():
        named = np.array([bool(one) for one in r.request_id.to_pylist()])
        assert ((r.slot >= 0) == named).all()
        keys = list(zip(r.user_id[named].tolist(), r.request_id.filter(pa.array(named)).to_pylist(), r.pin_id[named].tolist(), strict=True))
        at = known.loc[keys]
        assert at["slots"].tolist() == r.slot[named].tolist()
        assert np.array_equal(at["propensities"].to_numpy(np.float32), r.propensity[named])
        assert (at["shown"]).all()


def test_once_only_and_continued_after_a_kill(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(data, data.with_name("other"))
    whole = tidemark("backfill", "--kinds", "all", "--json", data=data.with_name("other")).json()

    class Killed(BaseException):
        pass

    append, calls = LocalLog.append, []

    def killed(self: LocalLog, batches: list, **more: object) -> list:
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return append(self, batches, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("flows.examples.backfill.command.Backfill", partial(Backfill, span_rows=700))
    monkeypatch.setattr(LocalLog, "append", killed)
    settings = settings_of(data)
    with pytest.raises(Killed):
        tidemark("backfill", "--kinds", "all", "--json", data=data)
    monkeypatch.undo()
    assert 0 < sum(len(t) for t in records(data).values()) < whole["rows"]
    # What has come since is not its matter: it ends where it began to.
    with LocalLog.open(settings.logs, "actions") as actions:
        last = actions.read(0, actions.end_position(0) - 1, 1)[0].records
        actions.append([(0, last)])
    second = tidemark("backfill", "--kinds", "all", "--json", data=data).json()
    assert 0 < second["added"] < second["rows"] == whole["rows"]
    left, right = records(data), records(data.with_name("other"))
    assert left.keys() == right.keys()
    for p in left:
        assert values_of(rows_of(left[p].to_batches(), "")) == values_of(rows_of(right[p].to_batches(), ""))
        assert left[p].column("sequence").to_pylist() == list(range(len(left[p])))
    again = tidemark("backfill", "--kinds", "all", data=data)
    assert "all of them are there already, 0 added" in again.out
    assert records(data).keys() == left.keys()
    refused = tidemark("backfill", data=data, code=1)
    assert "another run has made" in refused.err


def test_files_are_whole_or_absent(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "examples"
    counted = tidemark("backfill", "--out", out, "--dry-run", "--json", data=data).json()
    assert not out.exists()
    with monkeypatch.context() as patched:
        patched.setattr(target.ExampleFiles, "put", lambda self, span: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert "disk is full" in tidemark("backfill", "--out", out, data=data, code=1).err
    assert not [path for path in tmp_path.iterdir() if "examples" in path.name]
    made = tidemark("backfill", "--out", out, "--json", data=data).json()
    assert made["rows"] == counted["rows"] == made["added"]
    assert "is there already" in tidemark("backfill", "--out", out, data=data, code=1).err
    tidemark("backfill", data=data)
    with closing(ExampleDirectory(out)) as files:
        assert files.partitions == OF_PROCESSES
        for p, table in records(data).items():
            batches: list[LogBatch] = []
            while found := files.read(p, sum(len(batch.records) for batch in batches), 700):
                batches += found
            assert values_of(rows_of([b.records for b in batches], "")) == values_of(rows_of(table.to_batches(), ""))


def test_examples_are_exported(data: Path, tmp_path: Path) -> None:
    tidemark("backfill", "--kinds", "all", data=data)
    tidemark("backfill", "--out", tmp_path / "files", data=data)
    out = [tmp_path / "log.parquet", tmp_path / "files.parquet"]
    said = [
        tidemark("examples", "export", out[0], "--json", data=data).json(),
        tidemark("examples", "export", out[1], "--examples", tmp_path / "files", "--json", data=data).json(),
    ]
    tables = [pq.read_table(path) for path in out]
    assert tables[0].equals(tables[1])
    assert [one["rows"] for one in said] == [len(tables[0])] * 2
    middle = int(tables[0].to_pandas()["ready_time"].median())
    parts = [
        tidemark("examples", "export", out[0], *more, "--json", data=data).json()["rows"] for more in (("--from", middle), ("--to", middle))
    ]
    assert sum(parts) == len(tables[1])
    assert min(parts) > 0
    refused = tidemark("examples", "export", out[0], data=data, allowed_lateness_ms=HOUR + 1, code=1)
    assert "has features of other definitions or settings" in refused.err
    kept = tidemark("examples", "export", out[0], "--any-fingerprint", "--json", data=data, allowed_lateness_ms=HOUR + 1).json()
    assert kept["rows"] == len(tables[1])
    assert "no log 'examples'" in tidemark("examples", "export", out[0], data=tmp_path / "nothing", code=1).err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop_columns(["slots"]), "has no column 'slots'"),
        (lambda t: t.set_column(5, "slots", pa.array([[1]] * len(t))), "lists of different lengths"),
        (lambda t: t.set_column(1, "user_id", pa.array(["u"] * len(t))), "user_id must be whole numbers"),
        (lambda t: t.set_column(0, "request_id", pa.array([["r"]] * len(t))), "request_id must be texts"),
        (lambda t: t.set_column(5, "slots", t.column("propensities")), "slots holds what is none"),
        (
            lambda t: t.drop_columns(["request_time"]).append_column("request_time", pa.nulls(len(t), pa.int64())),
            "request_time must be whole",
        ),
    ],
)
def test_a_file_of_what_was_served_that_is_none(change, says: str, simulated: Simulated, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bad = tmp_path / "bad.parquet"
    pq.write_table(change(pq.read_table(simulated.directory / "served.parquet")), bad)
    ended = tidemark("backfill", "--served", bad, data=data, code=1)
    assert says in ended.err
    assert ended.err.count("\n") == 1
    bad.write_bytes(b"no parquet")
    assert "can't be read as Parquet" in tidemark("backfill", "--served", bad, data=data, code=1).err
