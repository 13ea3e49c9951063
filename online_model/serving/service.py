"""Serving without HTTP: a request goes to a reader, its answer to whoever asked and to SERVED; and what happens where one of the two fails.

No value is made up unless the operator has asked for defaults, and then each says that it is one. Never are rows of another fingerprint served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

import numpy as np

from flows import stopping
from flows.errors import OtherFingerprintError, TidemarkError
from flows.open_reader import open_reader
from flows.served_rows import Served
from flows.settings import Settings
from flows.state.actions_task import state_fingerprint
from online_model.serving.answer import Answer, Ask, defaults
from online_model.serving.errors import UnavailableError
from online_model.serving.lane import Lane
from online_model.serving.metrics import Metrics
from online_model.serving.options import OnStoreError, Options
from online_model.serving.packing import Packer, Request
from online_model.serving.rank_schema import Wanted
from online_model.serving.ranking import Rankings
from online_model.serving.retrieving import Sought
from online_model.serving.served_log import ServedLog

_log = logging.getLogger(__name__)

_NO_IDS = np.empty(0, np.int64)
_NOTHING = Ask(_NO_IDS, _NO_IDS, (), None)
# At the start a store that hangs must not hold up a server that can say so.
_WARM_UP_S = 60.0
_LOOK_S = 0.1
# So old may be what readiness goes by.
_SEEN_S = 1.0


class Service:
    """Everything of a server but its protocol.

    Parameters
    ----------
    settings : Settings
    options : Options
    """

    def __init__(self, settings: Settings, options: Options) -> None:
        self.settings, self.options = settings, options
        self.vocabulary = settings.load_vocabulary()
        self.fingerprint = state_fingerprint(settings, self.vocabulary)
        self.packer = Packer(self.vocabulary, self.fingerprint)
        self.metrics = Metrics()
        self.log = ServedLog(settings, options.log_queue_bytes, self.metrics)
        opener = partial(open_reader, settings)
        self._now = Lane("now", opener, options.most_waiting)
        # Apart, for a time that state no longer holds is read from the log, which takes seconds.
        self._past = Lane("past", opener, options.most_waiting)
        self.rankings = Rankings(settings, options, self.vocabulary, self.packer, self.metrics.rank)
        self._last: Answer | None = None
        self._looking = asyncio.Lock()
        self._seen: Answer | TidemarkError | None = None
        self._seen_at = 0.0
        self.metrics.watch("serving_waiting_requests", lambda: self._now.waiting + self._past.waiting)
        self.metrics.watch("serving_rank_waiting_requests", lambda: self.rankings.waiting)

    def warm_up(self) -> None:
        """Open the store and load what reads it, so that no request waits for that.

        Raises
        ------
        OtherFingerprintError
            Its rows are of other features or settings. Any other trouble may pass, and is what requests are told then.
        """
        one = np.zeros(1, np.int64)
        try:
            for ask in (_NOTHING, Ask(one, one, ("",), None)):
                answer = _unless_stopped(self._now.read(ask))
            self.packer.batch(Request(0, "", None), answer)
        except OtherFingerprintError:
            raise
        except TidemarkError as error:
            _log.warning("the store does not answer yet: %s", error)
        self.rankings.warm_up(_WARM_UP_S)

    def close(self) -> int:
        """Make durable what was served, and release everything; returns how many rows are lost."""
        self._now.close()
        self._past.close()
        self.rankings.close()
        return self.log.close(self.options.drain_s)

    # Requests --------------------------------------------------------------------------------------------------------------------------

    async def serve(self, request: Request, ask: Ask, pack: Callable[[Request, Answer], bytes]) -> bytes:
        """The body of an answer, which is in SERVED's queue when this returns.

        Raises
        ------
        UnavailableError
            The store does not answer; or, where it is required, SERVED has no room.
        OtherFingerprintError
        """
        self._check_room()
        answer = await self._answered(ask)
        body = pack(request, answer)
        self._keep(self.packer.served(request, answer), answer)
        return body

    async def rank(self, request: Request, wanted: Wanted) -> bytes:
        """The body of a ranking, which is in SERVED's queue when this returns.

        Raises
        ------
        NoModelServedError, OtherModelError
            There is no model, or none for what is served here.
        UnavailableError
            As of `serve`; or the model does not answer.
        OtherFingerprintError
        """
        self._check_room()
        chosen = await self.rankings.choose(wanted)
        began = time.perf_counter()
        answer = await self._answered(chosen.ask)
        ranking = await self.rankings.rank(request, chosen, answer, began)
        self._keep(self.packer.served(request, ranking.answer, ranking.ranked), answer)
        return ranking.body

    async def retrieve(self, request: Request, sought: Sought) -> bytes:
        """The body of a retrieval. It is nothing that is shown, so SERVED keeps none: what is ranked of it, is kept by whoever ranks it.

        Raises
        ------
        NoEmbeddingServedError
            There are no user embeddings.
        UnavailableError
            The store or the index does not answer.
        OtherFingerprintError
        """
        retriever = self.rankings.models.retriever_of(sought.user)
        if retriever is None:
            raise self.rankings.no_embedding()
        answer = await self._answered(Ask(np.array([sought.user], np.int64), _NO_IDS, (), None))
        self._last = answer
        return await self.rankings.retrieving.answer(request, sought, retriever, answer)

    def _check_room(self) -> None:
        if self.options.require_log and not self.log.has_room():
            raise self._no_room()

    def _keep(self, row: Served, answer: Answer) -> None:
        if not self.log.offer(row):
            if self.options.require_log:
                raise self._no_room()
            self.log.pass_over(row)
        self._last = answer
        self.metrics.answer(answer)

    async def _answered(self, ask: Ask) -> Answer:
        try:
            return await self._asked(ask)
        except OtherFingerprintError as error:
            self.metrics.store_error(error)
            raise
        except TidemarkError as error:
            self.metrics.store_error(error)
            if self.options.on_store_error is OnStoreError.DEFAULTS:
                return defaults(ask)
            if isinstance(error, UnavailableError):
                raise
            other = "" if ask.as_of is None else ", or for a later time"
            raise UnavailableError(str(error), f"ask again{other}: reads go on by themselves once the store answers") from error

    async def _asked(self, ask: Ask) -> Answer:
        lane, seconds = (self._now, self.options.timeout_s) if ask.as_of is None else (self._past, self.options.past_timeout_s)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(lane.read(ask))
        except TimeoutError:
            raise UnavailableError(
                f"the store has not answered within {seconds:g} s", "ask again later; if it goes on, see what the store is busy with"
            ) from None

    def _no_room(self) -> UnavailableError:
        return UnavailableError(
            f"what is served must be kept in log 'served', which has no room ({self.log.trouble})", "ask again; serving goes on once it has"
        )

    # How it is -------------------------------------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Why the store did not answer the last read; None if it did."""
        return str(self._now.trouble) if self._now.trouble is not None else None

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests get what they ask for, and why not."""
        said: dict[str, Any] = {"fingerprint": self.fingerprint, "store": self.settings.online or "task state"}
        reasons = []
        answer = await self._seen_lately()
        if isinstance(answer, TidemarkError):
            reasons.append(str(answer))
        else:
            said |= {"as_of": answer.prefix.newest, "positions": answer.prefix.positions}
            # Whoever asks for none of their entities is answered: nobody is helped by a server that gets no requests for it.
            said |= {"damaged": answer.prefix.damaged} if answer.prefix.damaged else {}
            if answer.prefix.newest is None:
                reasons.append("the flows have accepted no event yet; `tidemark run` applies what the log holds")
        # Features are served without a model too.
        said["model"] = self.rankings.told()
        said["embedding"] = self.rankings.embeddings_told()
        trouble = self.log.trouble
        if trouble is not None and self.options.require_log:
            reasons.append(f"log 'served': {trouble}")
        said["served_log"] = {"ok": trouble is None, "lost_rows": self.log.lost, **({"trouble": trouble} if trouble is not None else {})}
        return not reasons, {"ready": not reasons, **({"reasons": reasons} if reasons else {}), **said}

    async def _seen_lately(self) -> Answer | TidemarkError:
        """What the store says to a request for nothing, a second old at most: anybody may ask that, and takes no place of those who want features."""
        async with self._looking:
            if self._seen is None or time.monotonic() - self._seen_at >= _SEEN_S:
                try:
                    self._seen = self._last = await self._asked(_NOTHING)
                except TidemarkError as error:
                    self._seen = error
                self._seen_at = time.monotonic()
            return self._seen

    def exposition(self) -> bytes:
        """Metrics as text."""
        return self.metrics.exposition(self._last)


def _unless_stopped(answer: Future[Answer]) -> Answer:
    """Wait for an answer, until this process is asked to stop.

    Raises
    ------
    UnavailableError
        It has not come in time.
    """
    end = time.monotonic() + _WARM_UP_S
    while not stopping.requested() and time.monotonic() < end:
        wait([answer], _LOOK_S)
        if answer.done():
            return answer.result()
    raise UnavailableError("it is silent", "requests will be told so until it answers")
