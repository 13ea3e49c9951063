"""The script of benchmarks/_python_loop.py with nothing but sequences."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from benchmarks import _outcome, _python_loop
from flows.features import SEQUENCE_LENGTH


class Sequences(_python_loop.Features):
    """The loop without saves and revisits."""

    def add(self, events: Iterable[_python_loop.Event]) -> None:
        """All events of a partition, in order."""
        sequences, horizon = self.sequences, self.horizon
        watermark = turned = -(2**62)
        seen: dict[int, _python_loop.Event] = {}
        before: dict[int, _python_loop.Event] = {}
        for event in events:
            time, event_id, _, action, _, _, user_id = event
            known = seen.get(event_id) or before.get(event_id)
            if known is not None and known[0] >= watermark - horizon and known[6] == user_id:
                continue
            if action != "impression":
                sequence = sequences.get(user_id)
                if sequence is None:
                    sequences[user_id] = [event]
                else:
                    if event > sequence[-1]:
                        sequence.append(event)
                    else:
                        bisect.insort(sequence, event)
                    if len(sequence) > _python_loop.LONGEST:
                        del sequence[:-SEQUENCE_LENGTH]
            if time > watermark:
                watermark = time
                if watermark - turned >= horizon:
                    before, seen, turned = seen, {}, watermark
            seen[event_id] = event
        self.newest = max(self.newest, watermark)


class Contestant(_python_loop.Contestant):
    """The same events, sequences alone."""

    def outcome(self) -> _outcome.Outcome:
        """The sequences that the last run led to."""
        return {"sequences": super().outcome()["sequences"]}

    def _nothing(self) -> _python_loop.Features:
        return Sequences(self._settings.allowed_lateness_ms, self._settings.dedup_horizon_ms)
