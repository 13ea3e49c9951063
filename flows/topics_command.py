"""`tidemark topics`: the topics of Kafka that stand for our logs."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import click
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]
from rich.table import Table
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_exponential_jitter

from flows.errors import DataDirectoryError, SettingsError
from flows.kafka_client import ADMIN_TIMEOUT_S, Admin, broker_error, client_options, translated
from flows.log_kafka import LEDGER, KafkaLog
from flows.outputs import ACTIONS, CORRECTIONS, LOGS, REVISITS
from flows.run.display import console_for_tables
from flows.settings import Settings

DAY_MS = 86_400_000


@click.group(epilog="Example: tidemark topics list")
def topics() -> None:
    """Kafka topics: make them, and see how full they are and how far readers have come."""


@topics.command(epilog="Example: tidemark topics create --replication-factor 3")
@click.option(
    "--replication-factor", type=click.IntRange(1, 99), default=1, show_default=True, help="Copies of each partition; 3 in production."
)
@click.option("--retention-days", type=click.IntRange(1), help="Drop records after so many days; by default they are kept for ever.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def create(settings: Settings, replication_factor: int, retention_days: int | None, as_json: bool) -> None:
    """Make the topics that are not there yet, with the settings' number of partitions.

    Those that are there stay as they are. Where the brokers are is the setting kafka, e.g. TIDEMARK_KAFKA=localhost:9092.
    """
    kept = {
        "cleanup.policy": "delete",
        "retention.ms": str(retention_days * DAY_MS if retention_days else -1),
        "retention.bytes": "-1",
        "min.insync.replicas": str(max(1, replication_factor - 1)),
        "message.timestamp.type": "CreateTime",
    }
    # What was corrected is as old as what it corrects.
    wanted = [
        NewTopic(
            settings.kafka_prefix + name,
            settings.partitions,
            replication_factor,
            config={**kept, "retention.ms": "-1"} if name == CORRECTIONS else kept,
        )
        for name in LOGS
    ]
    # By the broker's clock: it refuses records from one that runs an hour ahead.
    ledger = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime", "min.insync.replicas": kept["min.insync.replicas"]}
    wanted.append(NewTopic(settings.kafka_prefix + LEDGER, 1, replication_factor, config=ledger))
    made: list[str] = []
    there: list[str] = []
    # Held by name: when it goes, what it has under way fails.
    admin = _admin(settings)
    with translated("Kafka: can't make topics"):
        admin.topics(ADMIN_TIMEOUT_S)
        for name, future in admin.create_topics(wanted, operation_timeout=ADMIN_TIMEOUT_S).items():
            try:
                future.result(ADMIN_TIMEOUT_S)
                made.append(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise broker_error(f"Kafka: can't make topic '{name}'", error.args[0]) from error
                there.append(name)
    kept_as = {settings.kafka_prefix + name: "delete" for name in LOGS} | {settings.kafka_prefix + LEDGER: "compact"}
    # Not those just made: a broker may not have heard of them yet.
    _check_kept(admin, {name: kept_as[name] for name in there})
    _await_heard(admin, set(made))
    for log in LOGS:
        # A topic of another number of partitions is told of here rather than at the first run.
        KafkaLog.open(settings, log, read_only=True).close()
    if as_json:
        click.echo(json.dumps({"made": sorted(made), "there": sorted(there), "partitions": settings.partitions}))
        return
    for name in sorted(made):
        click.echo(f"{name}: made")
    for name in sorted(there):
        click.echo(f"{name}: was there")


def _await_heard(admin: AdminClient, made: set[str]) -> None:
    """Wait until brokers know the topics that they have made: who asks at once may be told that there is none."""
    heard = Retrying(
        retry=retry_if_result(lambda there: not made <= there),
        wait=wait_exponential_jitter(0.02, 1.0),
        stop=stop_after_delay(ADMIN_TIMEOUT_S),
    )
    with suppress(RetryError), translated("Kafka: can't list topics"):
        heard(lambda: {name for name, topic in admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics.items() if topic.partitions})


def _check_kept(admin: AdminClient, wanted: dict[str, str]) -> None:
    """Refuse topics that somebody else made to keep their records in another way: compaction leaves only the newest of each key."""
    if not wanted:
        return
    answers = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in wanted], request_timeout=ADMIN_TIMEOUT_S)
    for resource, answer in answers.items():
        with translated(f"Kafka topic '{resource.name}': can't ask how it is set"):
            policy = answer.result(ADMIN_TIMEOUT_S)["cleanup.policy"].value
        if policy != wanted[resource.name]:
            raise DataDirectoryError(
                f"Kafka topic '{resource.name}' has cleanup.policy={policy}, so records that are needed would be lost; "
                f"set it to {wanted[resource.name]}, and see what is gone already"
            )


@topics.command("list", epilog="Example: tidemark topics list --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """Each topic with its partitions, what it holds, and the lag of the flow that reads it."""
    _admin(settings)
    rows: list[dict[str, Any]] = []
    for name in LOGS:
        try:
            log = KafkaLog.open(settings, name)
        except DataDirectoryError as error:
            rows.append({"topic": settings.kafka_prefix + name, "error": str(error)})
            continue
        with log:
            starts, ends = log.start_positions(), log.end_positions()
            row = {"topic": log.topic, "partitions": log.partitions, "offsets": sum(ends) - sum(starts), "start": starts, "end": ends}
            if name in (ACTIONS, REVISITS):
                told = log.group_positions(name)
                row |= {"group": settings.kafka_prefix + name, "lag": sum(end - told.get(p, starts[p]) for p, end in enumerate(ends))}
            rows.append(row)
    if as_json:
        click.echo(json.dumps({"topics": rows}))
        return
    table = Table("topic", "partitions", "offsets", "group", "lag")
    for row in rows:
        if "error" in row:
            table.add_row(str(row["topic"]), "not there")
        else:
            group, lag = str(row.get("group", "")), str(row.get("lag", ""))
            table.add_row(str(row["topic"]), f"{row['partitions']}", f"{row['offsets']:,}", group, lag)
    console_for_tables().print(table)


def _admin(settings: Settings) -> Admin:
    if not settings.kafka:
        raise SettingsError("the setting 'kafka' is empty, so the logs are the embedded ones; set TIDEMARK_KAFKA=host:port to use Kafka")
    with translated("Kafka"):
        return Admin(client_options(settings))
