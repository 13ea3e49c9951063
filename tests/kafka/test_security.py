"""Listeners that ask for a password, and over TLS for a certificate: who has them gets in, who has not is told so, and nothing tells them."""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.events import RAW_SCHEMA
from flows.kafka_client import Admin, BrokerError, client_options, translated
from flows.log_kafka import KafkaLog
from flows.outputs import ACTIONS
from flows.settings import Settings
from tests.kafka.broker import PASSWORD, USER, Broker
from tests.kafka.conftest import options
from tests.kafka.outcome import assert_as_embedded
from tests.processes import PARTITIONS, Simulated, refused, tidemark

pytestmark = pytest.mark.kafka

WRONG = "hush-wrong-sesame"
ONE = pa.record_batch([pa.array([b"{}"]), pa.array([1])], schema=RAW_SCHEMA)


def written(path: Path, password: str, *more: str) -> Path:
    lines = ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", f"sasl.username={USER}", f"sasl.password={password}", *more]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def guarded(shared_broker: Broker, tmp_path: Path) -> Settings:
    """Settings of somebody who has the password, in a file of its own."""
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD + "\n")
    return Settings(
        data=tmp_path / "data",
        partitions=PARTITIONS,
        kafka=shared_broker.guarded,
        kafka_prefix=f"t{uuid.uuid4().hex[:8]}.",
        kafka_options=written(tmp_path / "client.properties", f"file:{secret}"),
    )


def all_options(settings: Settings) -> dict[str, Any]:
    return {**options(settings), "kafka_options": settings.kafka_options}


def test_with_the_password_everything_works_and_nothing_tells_it(guarded: Settings, simulated: Simulated, tmp_path: Path) -> None:
    said = []
    for command in (
        ("topics", "create", "--json"),
        ("ingest", *simulated.files, "--json"),
        ("run", "--workers", 2),
        ("topics", "list", "--json"),
        ("status", "--json"),
        ("deadletters", "list", "--json"),
    ):
        done = tidemark(*command, data=guarded.data, **all_options(guarded))
        said += [done.out, done.err]
    assert_as_embedded(guarded, simulated, tmp_path / "got")
    said += [repr(guarded), str(guarded), repr(guarded.environment())]
    assert PASSWORD not in "".join(said)
    files = [path for path in guarded.data.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []


def test_a_wrong_password_is_told(guarded: Settings, tmp_path: Path) -> None:
    tidemark("topics", "create", data=guarded.data, **all_options(guarded))
    wrong = replace(guarded, kafka_options=written(tmp_path / "wrong.properties", WRONG))
    for command in (
        ("topics", "create"),
        ("topics", "list", "--json"),
        ("run",),
        ("run", "--workers", 2),
        ("status", "--json"),
        ("features", "user", 3),
    ):
        line = refused(*command, data=guarded.data, **all_options(wrong))
        assert "Invalid username or password" in line
        assert "check user, password and mechanism in kafka_options" in line
        assert WRONG not in line
    other = replace(
        guarded, kafka_options=written(tmp_path / "other.properties", f"file:{tmp_path / 'secret'}", "sasl.mechanism=SCRAM-SHA-256")
    )
    line = refused("run", data=guarded.data, **all_options(other))
    assert "check user, password and mechanism in kafka_options" in line
    assert PASSWORD not in line


def test_a_client_that_tells_all_of_its_work_does_not_tell_the_password(
    guarded: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    tidemark("topics", "create", data=guarded.data, **all_options(guarded))
    logger = logging.getLogger("tidemark.kafka")
    caplog.set_level(logging.DEBUG, logger.name)
    logger.addHandler(caplog.handler)
    try:
        for password in (PASSWORD, WRONG):
            loud = replace(guarded, kafka_options=written(tmp_path / "loud.properties", password, "debug=all", "log_level=7"))
            if password == WRONG:
                with pytest.raises(BrokerError, match="Invalid username or password") as told:
                    KafkaLog.open(loud, ACTIONS)
                assert WRONG not in str(told.value)
                continue
            with KafkaLog.open(loud, ACTIONS) as log:
                log.append([(0, ONE)])
                assert log.read(0, 0, 10)[0].end_offset == 1
    finally:
        logger.removeHandler(caplog.handler)
    lines = [record.getMessage() for record in caplog.records]
    assert any("sasl.password" in line for line in lines), "the client told how it is set"
    assert any("PLAIN" in line for line in lines)
    shown = "".join([*lines, *capfd.readouterr()])
    assert [secret for secret in (PASSWORD, WRONG) if secret in shown] == []


@pytest.fixture
def sealed(guarded: Settings, shared_broker: Broker, tmp_path: Path) -> Settings:
    """The same over TLS, with a certificate that the broker asks for."""
    signed = shared_broker.signed
    return replace(
        guarded, kafka=shared_broker.sealed, kafka_options=over_tls(tmp_path / "tls.properties", signed.ca, signed.certificate, signed.key)
    )


def over_tls(path: Path, ca: Path, *own: Path) -> Path:
    lines = [
        "security.protocol=SASL_SSL",
        "sasl.mechanism=PLAIN",
        f"sasl.username={USER}",
        "sasl.password=env:KAFKA_SECRET",
        f"ssl.ca.location={ca}",
    ]
    names = ("ssl.certificate.location", "ssl.key.location")
    path.write_text("\n".join([*lines, *(f"{name}={file}" for name, file in zip(names, own, strict=False))]))
    return path


def test_over_tls_with_a_certificate_everything_works(
    sealed: Settings, simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_SECRET", PASSWORD)
    said = []
    for command in (("topics", "create"), ("ingest", simulated.files[0]), ("run", "--workers", 1), ("status", "--json")):
        done = tidemark(*command, data=sealed.data, **all_options(sealed))
        said += [done.out, done.err]
    with KafkaLog.open(sealed, ACTIONS, read_only=True) as log:
        assert sum(log.end_positions()) > 0
    assert {task["lag"] for task in json.loads(said[-2])["tasks"]} == {0}
    assert PASSWORD not in "".join(said)


def test_what_tls_refuses_is_told(sealed: Settings, shared_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECRET", PASSWORD)
    signed = shared_broker.signed
    stranger = replace(sealed, kafka_options=over_tls(tmp_path / "stranger", signed.other_ca, signed.certificate, signed.key))
    line = refused("topics", "list", data=sealed.data, **all_options(stranger))
    assert "certificate verify failed" in line
    assert "check ssl.ca.location" in line
    # Of these, brokers that are away look the same at first: they are told once the patience is over.
    bare = replace(sealed, kafka_options=over_tls(tmp_path / "bare", signed.ca))
    with pytest.raises(BrokerError, match="alert bad certificate"), translated("Kafka"):
        Admin(client_options(bare)).topics(3.0)
    monkeypatch.setenv("KAFKA_SECRET", WRONG)
    line = refused("topics", "list", data=sealed.data, **all_options(sealed))
    assert "Invalid username or password" in line
    assert WRONG not in line
