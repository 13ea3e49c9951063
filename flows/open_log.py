"""Which log the settings mean: the embedded one, or Kafka's; joined with its archive where there is one."""

from __future__ import annotations

from flows.errors import DataDirectoryError
from flows.log import LocalLog, Log
from flows.outputs import ACTIONS
from flows.settings import Settings


def open_log(settings: Settings, name: str, create: bool = False, read_only: bool = False) -> Log:
    """Open a log, with all of its past: what its retention has taken is read from the archive.

    Parameters
    ----------
    create : bool
        Make an embedded log that isn't there; topics are made by `tidemark topics create`.
    read_only : bool
        Never write; appends are refused.

    Raises
    ------
    DataDirectoryError
        There is none, or it has another number of partitions than the settings say.
    LogError
        It ends before its archive does.
    """
    log = open_live_log(settings, name, create, read_only)
    if not (settings.archives / name).is_dir():
        return log
    # Not before it is needed: reading Parquet takes a while to load.
    from flows.archive.archive import Archive
    from flows.archive.joined import JoinedLog

    try:
        return JoinedLog(log, Archive(settings.archives, name, log.partitions), str(settings.archives))
    except BaseException:
        log.close()
        raise


def open_live_log(settings: Settings, name: str, create: bool = False, read_only: bool = False) -> Log:
    """The same without its archive: for who makes that."""
    _check_kind(settings)
    if settings.kafka:
        # Not before it is needed: the client takes 50 ms to load.
        from flows.log_kafka import KafkaLog

        return KafkaLog.open(settings, name, read_only)
    return LocalLog.open(settings.logs, name, settings.partitions, create, read_only)


def _check_kind(settings: Settings) -> None:
    """Refuse embedded logs where state was made from topics, and the other way round: positions in the one mean nothing in the other.

    Raises
    ------
    DataDirectoryError
    """
    topics = any(settings.state.glob("*.topic"))
    if settings.kafka and not topics and (settings.logs / f"{ACTIONS}.db").exists():
        raise DataDirectoryError(
            f"{settings.data} has embedded logs, and the settings name Kafka ({settings.kafka}): give Kafka another --data, or unset TIDEMARK_KAFKA"
        )
    if not settings.kafka and topics:
        raise DataDirectoryError(
            f"{settings.data} was made over Kafka, and the settings name no brokers: set TIDEMARK_KAFKA, or use another --data for embedded logs"
        )


def log_exists(settings: Settings, name: str) -> bool:
    """Whether an embedded log has been made; topics are always there, or it is an error to open them."""
    return bool(settings.kafka) or (settings.logs / f"{name}.db").exists()


def retention_of(settings: Settings, name: str) -> int | None:
    """How long a log keeps its records by their timestamps, ms; None for ever, as embedded ones do, or where brokers don't say."""
    if not settings.kafka:
        return None
    from flows import kafka_topic
    from flows.kafka_client import ADMIN_TIMEOUT_S, Admin, client_options

    return kafka_topic.retention_of(Admin(client_options(settings)), settings.kafka_prefix + name, ADMIN_TIMEOUT_S)
