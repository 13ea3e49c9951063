"""Connections to Kafka: the client's options, its errors in our words. Knows nothing of records.

Secrets come from a file of options, the environment or files that it names; no message of ours repeats a value of an option.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, TopicMetadata  # type: ignore[attr-defined]

from flows.errors import LogError, SettingsError, TidemarkError
from flows.errors import RetentionError as RetentionError
from flows.option_file import option_lines, option_value
from flows.settings import Settings

ADMIN_TIMEOUT_S = 30.0
LARGEST_MESSAGE = 32 << 20
_OURS = {"bootstrap.servers", "group.id", "transactional.id", "enable.idempotence", "acks", "isolation.level"} | {
    "enable.auto.commit",
    "auto.offset.reset",
    "enable.partition.eof",
}

# What passes by itself when brokers come back.
PASSING = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._WAIT_COORD,
    KafkaError._NOENT,
    # A connection that the client has replaced, as after a broker was away; what was asked over it is asked anew.
    KafkaError._DESTROY_BROKER,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNKNOWN,
}


class _LastWords(logging.Handler):
    """Keeps the last line that a client logged: of a fatal error it says nowhere else what it was."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage().rpartition("[thrd:main]: ")[2]


_last_words = _LastWords()
_SILENT = logging.getLogger("tidemark.kafka")
_SILENT.addHandler(_last_words)
_SILENT.propagate = False


class BrokerError(LogError):
    """Kafka can't be reached, or refuses what was asked."""


class Admin(AdminClient):
    """A client that hears when brokers don't let it in. Others only wait, until they give up without knowing why.

    Parameters
    ----------
    options : dict
        Of `client_options`.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        refusals: list[KafkaError] = []
        heard: list[str] = []

        def hear(error: KafkaError) -> None:
            if error.code() != KafkaError._ALL_BROKERS_DOWN:
                heard[:] = [error.str()]
            if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
                refusals.append(error)

        self._refusals, self._heard = refusals, heard
        hearing: dict[str, Any] = {**options, "error_cb": hear}
        super().__init__(hearing)

    def topics(self, timeout_s: float) -> dict[str, TopicMetadata]:
        """All topics, by name: what everybody asks first.

        Raises
        ------
        KafkaException
            The brokers don't answer, or, told within a second or two, they don't let us in.
        """
        deadline, patience_s = time.monotonic() + timeout_s, 1.0
        while True:
            left = max(deadline - time.monotonic(), 0.1)
            try:
                return self.list_topics(timeout=min(patience_s, left)).topics
            except KafkaException as error:
                self.poll(0)
                if self._refusals:
                    raise KafkaException(self._refusals[-1]) from error
                if patience_s >= left or not passes(error):
                    # Of a listener that wants TLS, or a certificate, it is said here alone.
                    code, said = error.args[0].code(), " (".join([error.args[0].str(), *self._heard]) + ")" * len(self._heard)
                    raise KafkaException(KafkaError(code, said)) from error
            # A broker that takes long to answer is waited for all the same.
            patience_s *= 2


class GivenUpError(Exception):
    """This process was asked to stop, and brokers don't answer."""


def client_options(settings: Settings) -> dict[str, Any]:
    """Options for every client: where the brokers are, and the user's own.

    Raises
    ------
    SettingsError
        The options file can't be read, or sets what must not be changed.
    """
    options: dict[str, Any] = {"bootstrap.servers": settings.kafka, "client.id": "tidemark", "socket.keepalive.enable": True}
    # What matters of it is in the errors; on standard error it would stand between lines for people.
    options |= {"log_level": 2, "logger": _SILENT}
    if settings.kafka_options is None:
        return options
    for where, name, value in option_lines("kafka_options", settings.kafka_options):
        if name in _OURS:
            raise SettingsError(f"{where}: {name} is set by Tidemark; leave it out")
        options[name] = option_value(f"{where}, {name}", value)
    return options


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Kafka's exceptions as ours."""
    try:
        yield
    except TidemarkError:
        raise
    except GivenUpError as error:
        raise BrokerError(f"{where}: {error}") from error
    except KafkaException as error:
        raise broker_error(where, error.args[0]) from error
    except TimeoutError as error:
        raise BrokerError(f"{where}: no answer{CHECK_BROKERS}") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise BrokerError(f"{where}: {error}") from error


def passes(error: BaseException) -> bool:
    """Whether an error is one that goes by itself."""
    return isinstance(error, KafkaException) and error.args[0].code() in PASSING


def broker_error(where: str, error: KafkaError | Any) -> BrokerError:
    """An error of Kafka with what to do about it."""
    code = error.code() if isinstance(error, KafkaError) else None
    text = error.str() if isinstance(error, KafkaError) else str(error)
    if code == KafkaError._FATAL:
        text = f"{text} ({_last_words.said})"
    return BrokerError(f"{where}: {text}{_ADVICE.get(code, '')}")


CHECK_BROKERS = "; check the setting 'kafka' and that the brokers run"
_IDEMPOTENT = "; this user must be allowed to write idempotently (IDEMPOTENT_WRITE on the cluster)"
_ADVICE: dict[int | None, str] = {
    KafkaError._ALL_BROKERS_DOWN: CHECK_BROKERS,
    KafkaError._TRANSPORT: CHECK_BROKERS,
    KafkaError._TIMED_OUT: CHECK_BROKERS,
    KafkaError._MSG_TIMED_OUT: CHECK_BROKERS,
    KafkaError._WAIT_COORD: CHECK_BROKERS,
    KafkaError._NOENT: CHECK_BROKERS,
    KafkaError._RESOLVE: "; check the host names in the setting 'kafka'",
    KafkaError._SSL: "; check ssl.ca.location, ssl.certificate.location and ssl.key.location in kafka_options",
    KafkaError._AUTHENTICATION: "; check user, password and mechanism in kafka_options",
    KafkaError.SASL_AUTHENTICATION_FAILED: "; check user, password and mechanism in kafka_options",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "; this user may not use the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: _IDEMPOTENT,
    KafkaError._FATAL: _IDEMPOTENT,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "; this user must be allowed to write transactional IDs that begin with kafka_prefix",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "; this user must be allowed to read groups that begin with kafka_prefix",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "; `tidemark topics create` makes the topics",
    KafkaError._UNKNOWN_TOPIC: "; `tidemark topics create` makes the topics",
    KafkaError.MSG_SIZE_TOO_LARGE: "; raise the topic's max.message.bytes, or message.max.bytes in kafka_options",
}
