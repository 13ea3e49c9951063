"""Micro-batches that another process makes ready are those that one makes oneself, and nothing of it is left, whoever is killed."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from feature_repo.errors import NoEmbeddingError
from flows.errors import InputError, TidemarkError
from flows.examples.record import EXAMPLES
from flows.examples.rows import ExampleRows, batch_of
from flows.examples.store import open_examples
from flows.log import LocalLog
from flows.settings import Settings
from online_model.learner import apart
from online_model.learner.apart import SLOTS, Apart
from online_model.learner.course import Course
from online_model.learner.errors import LearnerError
from online_model.learner.reading import Batches, Ready
from online_model.learner.reading_process import Asked, sendable
from online_model.learner.ring import Ring, memory
from online_model.model.served_vectors import ServedVectors
from tests.learner.test_reading import ROWS, rows_in_order
from tests.learner.test_step import model
from tests.learner.world import CONFIG
from tests.model.embedding_runs import D, Runs
from tests.processes import PATIENCE_S, ROOT, environment

BATCH_ROWS = 8


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path, partitions=1)


def write(settings: Settings, rows: ExampleRows, low: int = 0, high: int = ROWS) -> None:
    with closing(LocalLog.open(settings.logs, EXAMPLES, 1, create=True)) as log:
        log.append([(0, batch_of(rows.take(np.arange(low, high)), 0, 0, low))])


def asked(settings: Settings, follow: bool = False) -> Asked:
    config = replace(CONFIG, batch_rows=BATCH_ROWS, batch_ms=86_400_000)
    course = Course(1, "", config, {}, (0,), rows_in_order().fingerprints[0])
    return Asked(partial(open_examples, settings), (0,), model(), course, follow, ended=not follow)


def plainly(ready: Ready) -> bytes:
    """All of it, copied."""
    return pickle.dumps(ready, 5)


def by_oneself(settings: Settings) -> Iterator[bytes]:
    one = asked(settings)
    with closing(open_examples(settings)) as log:
        batches = Batches(log, one.positions, one.model, one.course)
        while (ready := batches.next(ended=True)) is not None:
            yield plainly(ready)


def taken(reading: Apart) -> Ready:
    ready = reading.get(PATIENCE_S)
    assert ready is not None
    return ready


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_batches_are_those_that_one_makes_oneself(settings: Settings) -> None:
    write(settings, rows_in_order())
    expected = list(by_oneself(settings))
    assert len(expected) > SLOTS
    # Some go through memory, and those that are larger go with the message.
    with closing(Apart(asked(settings), slot_bytes=sorted(map(len, expected))[len(expected) // 2])) as reading:
        found = [plainly(taken(reading))]
        # Torch would cost the process a second and 350 MB.
        loaded = Path(f"/proc/{reading.process_id}/maps").read_text()
        assert "numpy" in loaded
        assert "torch" not in loaded
        while (ready := reading.get(PATIENCE_S)) is not None:
            found.append(plainly(ready))
        assert found == expected
        assert reading.ended
        assert reading.get(0) is None
    assert not runs(reading.process_id)


def test_following_it_finds_what_is_appended_whatever_signals_come(settings: Settings) -> None:
    rows = rows_in_order()
    write(settings, rows, 0, 20)
    with closing(Apart(asked(settings, follow=True))) as reading:
        # As a terminal and a service manager send them, at any time, to all processes that there are.
        os.kill(reading.process_id, signal.SIGINT)
        os.kill(reading.process_id, signal.SIGTERM)
        assert [taken(reading).positions, taken(reading).positions] == [(8,), (16,)]
        assert reading.get(0.2) is None
        assert not reading.ended
        write(settings, rows, 20, 30)
        assert taken(reading).positions == (24,)
        os.kill(reading.process_id, signal.SIGKILL)
        with pytest.raises(LearnerError, match=r"has ended by signal 9 \(Killed\); run the same command again"):
            while reading.get(PATIENCE_S) is not None:
                pass
        assert reading.get(0) is None


def test_what_reading_meets_is_raised_where_one_learns(settings: Settings) -> None:
    rows = rows_in_order()
    counters = rows.pin_counters.copy()
    counters[20] = -1
    write(settings, replace(rows, pin_counters=counters, kind=np.zeros_like(rows.kind)))
    with closing(Apart(asked(settings))) as reading:
        assert [taken(reading).positions, taken(reading).positions] == [(8,), (16,)]
        with pytest.raises(InputError) as there:
            reading.get(PATIENCE_S)
    with pytest.raises(InputError) as here:
        list(by_oneself(settings))
    assert str(there.value) == str(here.value)


def with_embeddings(settings: Settings, vectors: ServedVectors) -> Asked:
    return replace(asked(settings), model=model(user_embedding=D), vectors=vectors)


def test_a_ranker_that_takes_user_embeddings_is_given_the_same(settings: Settings) -> None:
    rows = rows_in_order()
    write(settings, rows)
    runs = Runs(settings)
    middle = int(np.median(rows.request_time))
    for as_of in (middle - 2_000, middle, middle + 2_000):
        runs.run(as_of, np.unique(rows.user_id)[:6].tolist())
    one = with_embeddings(settings, ServedVectors(settings.data, runs.taken))
    with closing(open_examples(settings)) as log:
        batches = Batches(log, one.positions, one.model, one.course, vectors=one.vectors)
        expected = []
        while (ready := batches.next(ended=True)) is not None:
            expected.append(plainly(ready))
            assert ready.batch.features.user_embedding.shape[1] == D + 1
    with closing(Apart(with_embeddings(settings, ServedVectors(settings.data, runs.taken)))) as reading:
        found, had = [], 0
        while (ready := reading.get(PATIENCE_S)) is not None:
            found.append(plainly(ready))
            had += int(ready.batch.features.user_embedding[:, -1].sum())
    assert found == expected
    assert 0 < had < ROWS


def test_that_there_are_no_user_embeddings_is_told(settings: Settings) -> None:
    write(settings, rows_in_order())
    vectors = ServedVectors(settings.data, Runs(settings).taken)
    with (
        closing(Apart(with_embeddings(settings, vectors))) as reading,
        pytest.raises(NoEmbeddingError, match="has no table of them; `tidemark embed infer` makes one"),
    ):
        reading.get(PATIENCE_S)


def doing(code: str) -> partial[None]:
    """In place of opening EXAMPLES; not a function of this module, which would load torch there."""
    return partial(exec, code, {})


def test_a_connection_that_reading_has_lost_is_not_the_learners(settings: Settings) -> None:
    """Both are told by the same errors; the learner must hear of the one, and its process end with the other."""
    lost = doing("raise ConnectionRefusedError(111, 'no broker there')")
    with (
        closing(Apart(replace(asked(settings), opened=lost))) as reading,
        pytest.raises(ConnectionRefusedError, match="no broker there"),
    ):
        reading.get(PATIENCE_S)


HALF = "import os, struct, sys\nos.write(int(sys.argv[1]), struct.pack('!i', 1_000) + b'half of it')\nos.kill(os.getpid(), 9)"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (HALF, r"has ended by signal 9 \(Killed\); .* too little memory, as a rule"),
        ("import os\nos._exit(1)", r"has ended with code 1; .* what it has written above says why"),
    ],
)
def test_how_it_has_ended_is_told_wherever_it_was(settings: Settings, code: str, told: str) -> None:
    with closing(Apart(replace(asked(settings), opened=doing(code)))) as reading:
        with pytest.raises(LearnerError, match=told):
            reading.get(PATIENCE_S)
        assert reading.ended


class Unsendable(TidemarkError):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def test_errors_go_over_with_their_kind_and_what_led_to_them() -> None:
    def met(error: Exception) -> Exception:
        try:
            raise error from KeyError("deeper")
        except Exception as raised:
            there: Exception = pickle.loads(pickle.dumps(sendable(raised)))
            return there

    usual = met(InputError("no number"))
    assert (type(usual), str(usual)) == (InputError, "no number")
    assert "KeyError: 'deeper'" in usual.__notes__[0]
    other = met(Unsendable("no ", "way"))
    assert (type(other), str(other)) == (RuntimeError, "Unsendable: no way")
    assert "KeyError: 'deeper'" in other.__notes__[0]


def test_it_ends_with_who_learns_whatever_it_waits_for(settings: Settings) -> None:
    reached = settings.data / "reached"
    waiting = partial(exec, "import pathlib, time\npathlib.Path(reached).touch()\ntime.sleep(1000)", {"reached": str(reached)})
    code = (
        "import pickle, sys, time\nfrom online_model.learner.apart import Apart\n"
        "reading = Apart(pickle.load(sys.stdin.buffer))\nprint(reading.process_id, flush=True)\ntime.sleep(1000)"
    )
    learning = subprocess.Popen([sys.executable, "-c", code], env=environment(), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with learning:
        assert learning.stdin is not None
        assert learning.stdout is not None
        pickle.dump(replace(asked(settings), opened=waiting), learning.stdin)
        learning.stdin.close()
        process = int(learning.stdout.readline())
        wait_for(reached.exists)
        assert runs(process)
        learning.kill()
        wait_for(lambda: not runs(process))


def test_a_process_that_cannot_be_started_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(apart, "memory", refuse)
    with pytest.raises(LearnerError, match=r"can't be started \(.*Cannot allocate memory\); let this user have one more process"):
        Apart(asked(settings))


def descriptors() -> list[str]:
    # What tests before have left to the collector would go in between.
    gc.collect()
    return sorted(os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}"))


@pytest.mark.parametrize("name", ["Pipe", "memory", "_started"])
def test_out_of_files_it_says_so_and_leaves_none(settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(apart, name, refuse)
        with pytest.raises(LearnerError, match=r"can't be started \(.*Too many open files\); let this user have more open files"):
            Apart(asked(settings))
    assert not Counter(descriptors()) - Counter(before)


def test_no_descriptor_is_left_of_one_that_is_closed(settings: Settings) -> None:
    write(settings, rows_in_order(), 0, 20)
    before = descriptors()
    reading = Apart(asked(settings))
    taken(reading)
    reading.close()
    # What was taken lies in its memory.
    del reading
    assert not Counter(descriptors()) - Counter(before)


def test_slots_keep_what_was_put_there_until_they_are_written_again() -> None:
    rng = np.random.default_rng(0)
    held = memory(3 * 4096)
    here, there = (Ring(held, 3, 4096) for _ in range(2))
    os.close(held)

    def some(n: int) -> dict[str, np.ndarray]:
        return {"a": rng.integers(0, 9, (n, 3)), "b": np.empty((0, 4), np.float32), "c": rng.random(n) < 0.5, "d": rng.random((2, n))[1]}

    # 33 rows and what lies between them fill a slot; 200 are too many for one.
    values = [some(n) for n in (70, 33, 0, 200)]
    packed = [there.pack(value, slot) for slot, value in enumerate(values[:3])]
    for value, one in zip(values, [here.unpack(one) for one in packed], strict=False):
        for name, array in value.items():
            assert (one[name].dtype, one[name].shape, one[name].tobytes()) == (array.dtype, array.shape, array.tobytes())
            # Torch takes no arrays that can't be written.
            assert one[name].flags.writeable
    assert [len(one[1]) for one in packed] == [4, 4, 4]
    large = there.pack(values[3], 1)
    assert large[1] == ()
    assert here.unpack(large)["a"].tobytes() == values[3]["a"].tobytes()
    assert here.unpack(packed[2])["a"].shape == (0, 3)
