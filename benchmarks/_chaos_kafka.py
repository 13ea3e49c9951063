"""A real broker to be disturbed: the one of the tests."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from confluent_kafka.admin import AdminClient

from flows.outputs import DEADLETTERS, LATE, REVISITS
from flows.settings import Settings
from tests.kafka.broker import Broker
from tests.processes import kill, tidemark

_PATIENCE_S = 60.0


class KafkaBroker:
    """A broker on loopback, and topics made as a user makes them.

    Parameters
    ----------
    directory : Path
        For its files.
    long_lived : bool
        See `Broker`.
    """

    def __init__(self, directory: Path, long_lived: bool = False) -> None:
        self._broker = Broker(directory, long_lived)

    def settings(self, settings: Settings) -> Settings:
        """The same settings over topics of this broker, which are made."""
        out = replace(settings, kafka=self._broker.servers)
        _make_topics(out)
        return out

    def outage(self, how: str, seconds: float) -> None:
        """Kill it and start it again after so many seconds, or let it stand still for as long."""
        if how == "kill":
            self._broker.stop(kill=True)
            time.sleep(seconds)
            self._broker.start()
        else:
            process = self._broker._process.pid  # type: ignore[union-attr]
            kill(process, signal.SIGSTOP)
            time.sleep(seconds)
            kill(process, signal.SIGCONT)

    def renew_outputs(self, settings: Settings, outputs: Sequence[str] = (REVISITS, LATE, DEADLETTERS)) -> None:
        """Delete the topics of outputs, and make them anew, empty."""
        admin = AdminClient({"bootstrap.servers": self._broker.servers})
        names = [settings.kafka_prefix + name for name in outputs]
        for deleted in admin.delete_topics(names).values():
            deleted.result(_PATIENCE_S)
        deadline = time.monotonic() + _PATIENCE_S
        while set(names) & set(admin.list_topics(timeout=_PATIENCE_S).topics):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the broker has not deleted {', '.join(names)}")
            time.sleep(0.1)
        _make_topics(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._broker.stop()


def _make_topics(settings: Settings) -> None:
    tidemark(
        "topics", "create", data=settings.data, kafka=settings.kafka, kafka_prefix=settings.kafka_prefix, partitions=settings.partitions
    )
