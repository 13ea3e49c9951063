"""A real Apache Kafka of one node on loopback, from Maven's jars; one per test process, stopped at its end."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.ports import free_ports
from tests.tls import sign

VERSION = "4.3.1"
POM = Path(__file__).with_name("pom.xml")
JARS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tidemark" / f"kafka-{VERSION}-{zlib.crc32(POM.read_bytes()):08x}"
# Who may use the listener that asks for a password.
USER, PASSWORD = "tide", "hush-open-sesame"
ADVICE = "no Kafka: java, mvn and openssl are not all on PATH; to get them: apt-get install default-jre-headless maven openssl"
START_S = 120.0
# A broker that lives for minutes, and a tool for a second, are not worth the compiler that makes long-lived ones fast.
_LONG_LIVED = ("java", "-XX:+UseSerialGC")
JAVA = (*_LONG_LIVED, "-XX:TieredStopAtLevel=1")

PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded},SEALED://127.0.0.1:{sealed},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded},SEALED://127.0.0.1:{sealed}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,GUARDED:SASL_PLAINTEXT,SEALED:SASL_SSL
listener.name.guarded.sasl.enabled.mechanisms=PLAIN
listener.name.guarded.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.sealed.sasl.enabled.mechanisms=PLAIN
listener.name.sealed.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.sealed.ssl.keystore.type=PEM
listener.name.sealed.ssl.keystore.location={keys}
listener.name.sealed.ssl.truststore.type=PEM
listener.name.sealed.ssl.truststore.location={ca}
listener.name.sealed.ssl.client.auth=required
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.check.interval.ms=1000
"""


def present() -> bool:
    """Whether a broker can be had here."""
    return shutil.which("java") is not None and shutil.which("openssl") is not None and (JARS.exists() or shutil.which("mvn") is not None)


def jars() -> Path:
    """Kafka's jars, fetched by Maven the first time."""
    JARS.parent.mkdir(parents=True, exist_ok=True)
    with (JARS.parent / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not JARS.exists():
            draft = JARS.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            get = [
                "mvn",
                "-B",
                "-q",
                "-f",
                str(POM),
                "dependency:copy-dependencies",
                "-DincludeScope=runtime",
                f"-DoutputDirectory={draft}",
            ]
            done = subprocess.run(get, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"Maven could not fetch Kafka: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            draft.rename(JARS)
    return JARS


class Broker:
    """The broker's process.

    Parameters
    ----------
    directory : Path
    long_lived : bool
        It is to live for so long that it should be compiled well.

    Attributes
    ----------
    servers : str
        The listener that takes anyone.
    guarded, sealed : str
        That which asks for a password; and the same over TLS, which asks for a certificate too.
    signed : Signed
        What clients of the last one need.
    """

    def __init__(self, directory: Path, long_lived: bool = False) -> None:
        self._directory, self._java = directory, _LONG_LIVED if long_lived else JAVA
        directory.mkdir(parents=True, exist_ok=True)
        port, guarded, sealed, controller = free_ports(4)
        self.servers, self.guarded, self.sealed = (f"127.0.0.1:{one}" for one in (port, guarded, sealed))
        self.signed = sign(directory / "tls")
        keys = directory / "tls" / "keys.pem"
        keys.write_bytes(self.signed.key.read_bytes() + self.signed.certificate.read_bytes())
        self._config = directory / "server.properties"
        self._config.write_text(
            PROPERTIES.format(
                port=port,
                guarded=guarded,
                sealed=sealed,
                controller=controller,
                directory=directory,
                user=USER,
                password=PASSWORD,
                keys=keys,
                ca=self.signed.ca,
            )
        )
        self._classpath = f"{jars()}/*"
        tool = ("kafka.tools.StorageTool", "format", "-t", "5L6g3nShT-eMCtK--X86sw", "-c", str(self._config))
        form = [*JAVA, "-cp", self._classpath, *tool]
        subprocess.run(form, check=True, capture_output=True, cwd=directory)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._directory / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java, "-Xmx512m", "-cp", self._classpath, "kafka.Kafka", str(self._config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._directory,
            )
        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        deadline = time.monotonic() + START_S
        while True:
            try:
                admin.list_topics(timeout=2)
                return
            except KafkaException:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    said = (self._directory / "broker.log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"Kafka did not start: {said}") from None

    def tool(self, name: str, *arguments: str) -> str:
        """What one of Kafka's own commands prints, e.g. that behind `kafka-consumer-groups.sh`."""
        command = [*JAVA, "-Xmx256m", "-cp", self._classpath, name, "--bootstrap-server", self.servers, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self._directory)
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def stop(self, kill: bool = False) -> None:
        """End it, as an operator or as a power failure would."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(60)
            self._process = None

    def signal(self, number: int) -> None:
        """Send it a signal: SIGSTOP lets it stand still, with all its connections, until SIGCONT."""
        if self._process is not None:
            self._process.send_signal(number)


def main() -> None:
    """Run a broker until Ctrl-C, to try things with."""
    argparse.ArgumentParser(prog="python -m tests.kafka.broker", description=main.__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemark-kafka-") as directory:
        broker = Broker(Path(directory))
        try:
            print(f"export TIDEMARK_KAFKA={broker.servers}    # runs until Ctrl-C, and forgets everything then", flush=True)
            with suppress(KeyboardInterrupt):
                signal.pause()
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            broker.stop()


if __name__ == "__main__":
    main()
