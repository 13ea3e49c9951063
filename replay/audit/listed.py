"""Which entities the log has, offered to samples as its records go by.

They are more than state has, for duplicates and records too far ahead of their time are not left out; one of which nothing comes is compared as
nothing with nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flows.decode import Columns, Decoder
from flows.errors import CorruptionError
from flows.kernels.layout import ROLE_REVISIT, ROLE_SAVE
from flows.log import Log, read_before
from flows.partition import partition_of
from flows.settings import Settings
from flows.vocabulary import IMPRESSION, Vocabulary
from replay.audit.said import Step
from replay.audit.sample import Sample


def list_entities(
    settings: Settings,
    vocabulary: Vocabulary,
    log: Log,
    partition: int,
    end: int,
    users: Sample | None,
    topics: Sample | None,
    pins: Sequence[Sample | None],
    step: Step,
) -> None:
    """Offer what a partition of ACTIONS has up to a position to samples.

    Parameters
    ----------
    pins : sequence of Sample
        By the partition of REVISITS that a pin is in.
    """
    impression = vocabulary.actions[IMPRESSION]
    for columns in _decoded(settings, vocabulary, log, partition, end, step):
        revisit = columns.role & ROLE_REVISIT != 0
        if users is not None:
            users.offer(columns.user_id[~columns.bad & ((columns.action != impression) | revisit)])
        if topics is not None:
            topics.offer(columns.topic[~columns.bad & (columns.role & ROLE_SAVE != 0) & (columns.topic != 0)])
        if any(sample is not None for sample in pins):
            revisited = columns.pin_id[~columns.bad & revisit]
            homes = partition_of(revisited, len(pins))
            for home, sample in enumerate(pins):
                if sample is not None:
                    sample.offer(revisited[homes == home])


def _decoded(settings: Settings, vocabulary: Vocabulary, log: Log, partition: int, end: int, step: Step) -> Iterator[Columns]:
    decoder, at = Decoder(vocabulary, (partition, settings.partitions)), 0
    while at < end:
        batches = read_before(log, end, partition, at, settings.batch_records)
        if not batches:
            raise CorruptionError(
                f"log '{log.name}', partition {partition}, ends at {at}, not at {end}: it has lost records; restore the log"
            )
        yield decoder.decode(*(batch.records for batch in batches))
        step(batches[-1].end_offset - at)
        at = batches[-1].end_offset
