"""What a learner reads out of topics is read by a process of its own, whose client is its own too."""

from __future__ import annotations

import pickle
from contextlib import closing
from functools import partial

import numpy as np
import pytest

from benchmarks._example_stream import partitioned
from flows.examples.joining import joined
from flows.examples.record import EXAMPLES
from flows.examples.rows import batch_of
from flows.examples.store import open_examples
from flows.open_log import open_log
from flows.settings import Settings
from online_model.learner.apart import Apart
from online_model.learner.course import Course
from online_model.learner.reading import Batches
from online_model.learner.reading_process import Asked
from tests.learner.test_step import model
from tests.learner.world import CONFIG, rows_for
from tests.processes import PATIENCE_S


@pytest.mark.kafka
def test_micro_batches_out_of_topics(on_kafka: Settings) -> None:
    parts = partitioned(joined(rows_for()), on_kafka.partitions)
    with open_log(on_kafka, EXAMPLES) as log, closing(open_examples(on_kafka)) as again:
        for p, rows in enumerate(parts):
            # Some records in each message, as a task commits them.
            for low in range(0, len(rows), 5):
                log.append([(p, batch_of(rows.take(np.arange(low, min(low + 5, len(rows)))), 0, p, low))])
        begin = (0,) * on_kafka.partitions
        course = Course(1, "", CONFIG, {}, begin, parts[0].fingerprints[0])
        batches = Batches(again, begin, model(), course)
        expected, positions = [], []
        while (ready := batches.next(ended=True)) is not None:
            expected.append(pickle.dumps(ready, 5))
            positions.append(ready.positions)
        # Wherever it goes on, nothing is left out and nothing comes twice.
        for i, at in enumerate(positions):
            rest = Batches(again, at, model(), course)
            following = rest.next(ended=True)
            assert (pickle.dumps(following, 5) if following is not None else None) == (expected[i + 1] if at != positions[-1] else None)
    found = []
    with closing(Apart(Asked(partial(open_examples, on_kafka), begin, model(), course, follow=False, ended=True))) as reading:
        while (ready := reading.get(PATIENCE_S)) is not None:
            found.append(pickle.dumps(ready, 5))
    assert reading.ended
    assert found == expected
    assert len(found) > 5
