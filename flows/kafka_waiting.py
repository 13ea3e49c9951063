"""Waiting for brokers: as long as `kafka_patience_ms` says, but no more than seconds once this process is asked to stop.

The client's own calls keep a thread for up to half a minute, in which Python hears of no signal. So they are made in threads of their own, or ask
for a future, and whoever waits looks up now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from flows import stopping
from flows.kafka_client import GivenUpError, passes

T = TypeVar("T")

_LOOK_S, _AGAIN_S = 0.1, 0.05
# Whoever stops a process kills it after ten seconds, or thirty.
_GRACE_S = 5.0
_given_up = False


def look_up(begun: float) -> None:
    """Give up what has waited, since a time of the monotonic clock, for too long now that this process is asked to stop.

    Raises
    ------
    GivenUpError
        Once that has happened, all others give up too: else each of them would wait by itself.
    """
    global _given_up
    if stopping.overdue(begun, _LOOK_S if _given_up else _GRACE_S):
        _given_up = True
        raise GivenUpError("asked to stop while brokers don't answer; what was committed is safe, run again to continue")


def answered(answer: Future[T], longest_s: float) -> T:
    """Wait for an answer.

    Raises
    ------
    GivenUpError
    KafkaException
        What came instead; that it has timed out, if nothing came for so long.
    """
    begun = time.monotonic()
    while not wait([answer], _LOOK_S).done:
        look_up(begun)
        if time.monotonic() - begun > longest_s:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    return answer.result()


def interruptibly(call: Callable[[], T], longest_s: float) -> T:
    """The result of a call that keeps its thread; see `answered`. A call that nobody waits for any more goes on with what it uses."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, name="asking-kafka", daemon=True).start()
    return answered(answer, longest_s)


def patiently(job: Callable[[], T], patience_s: float) -> T:
    """Do something again while brokers are away or leaders move, for so many seconds; then what it last raised is raised."""
    begun = time.monotonic()

    def tried() -> T:
        look_up(begun)
        return job()

    # The ends of logs are asked for a hundred times a second, mostly with success, and a Retrying is a ring of sixty objects that only the collector
    # of Python takes apart: it is made where it is needed.
    try:
        return tried()
    except Exception as error:
        if not passes(error) or time.monotonic() - begun >= patience_s:
            raise
    time.sleep(_AGAIN_S)
    again = Retrying(
        retry=retry_if_exception(passes),
        wait=wait_exponential_jitter(initial=_AGAIN_S, max=2.0),
        stop=stop_after_delay(max(0.0, patience_s - (time.monotonic() - begun))),
        reraise=True,
    )
    return again(tried)
