"""Which topic a name stands for, and whether it is still the one that state was made from.

A topic that is deleted and made again under its name counts its offsets from 0, so a position in the old one means nothing in the new one. Kafka
gives each topic an ID of its own, which the state directory keeps. And partitions that are added later move users: nothing may go on then.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from flows.errors import MAKE_ANEW, DataDirectoryError
from flows.kafka_waiting import answered

NOT_THERE = "is not there; `tidemark topics create` makes the topics"


@dataclass(frozen=True)
class Topic:
    """What the brokers say of a topic."""

    id: str
    partitions: int


def described(admin: AdminClient, topic: str, timeout_s: float) -> Topic:
    """Ask the brokers.

    Raises
    ------
    KafkaException
        They don't answer, or there is no such topic.
    """
    [answer] = admin.describe_topics(TopicCollection([topic]), request_timeout=timeout_s).values()
    # A moment longer than the request, so that the error is the one that it gives.
    found = answered(answer, timeout_s + 5)
    return Topic(str(found.topic_id), len(found.partitions))


def retention_of(admin: AdminClient, topic: str, timeout_s: float) -> int | None:
    """How long brokers keep a topic's records by their timestamps, ms; None for ever, or where they don't say."""
    [answer] = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)], request_timeout=timeout_s).values()
    with suppress(KafkaException):
        kept = int(answered(answer, timeout_s + 5)["retention.ms"].value)
        return kept if kept >= 0 else None
    return None


def check_partitions(where: str, found: int, wanted: int) -> None:
    """Refuse a topic of another number of partitions than the settings say."""
    if found != wanted:
        raise DataDirectoryError(
            f"{where} has {found} partitions, but the settings say {wanted}; the number is fixed when the topic is made, for users would move: "
            f"set partitions = {found} if it was always so, or make topics under another kafka_prefix and fill them anew"
        )


def check_same(where: str, kept: Path, found: Topic, keep: bool) -> None:
    """Refuse a topic that is not the one that state was made from.

    Parameters
    ----------
    where : str
        The topic, for the message.
    kept : Path
        File of the state directory that holds the topic's ID.
    found : Topic
    keep : bool
        Write the file if it isn't there.
    """
    try:
        known = kept.read_text("ascii").strip()
    except FileNotFoundError:
        if not keep:
            return
        draft = kept.with_name(f"{kept.name}.{os.getpid()}")
        try:
            with draft.open("w", encoding="ascii") as file:
                file.write(found.id + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(kept)
        except OSError as error:
            raise DataDirectoryError(f"can't write {kept}: {error.strerror}") from error
        return
    except (OSError, UnicodeDecodeError) as error:
        raise DataDirectoryError(f"can't read {kept}: {error}") from error
    if known != found.id:
        raise DataDirectoryError(
            f"{where} is not the one that {kept.parent} was made from: it was deleted and made again, or the settings name other brokers (its "
            f"ID is {found.id}, it was {known}); put the settings or the topic back, or {MAKE_ANEW}"
        )
