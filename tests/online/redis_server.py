"""A real Redis on a loopback port of its own, that keeps nothing on disk; stopped at the end of its tests."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from tests.ports import free_ports

START_S = 30.0


class RedisServer:
    """The server's process.

    Parameters
    ----------
    directory : Path
        Where it runs, and what it says is kept.
    options : str
        Further options, as on its command line.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        [self.port] = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        fixed = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["redis-server", *fixed, *self._options], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._directory
            )
        deadline = time.monotonic() + START_S
        with Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                    return
                except AuthenticationError:
                    # It answers: that it wants to know who asks.
                    return
                except RedisError:
                    if time.monotonic() > deadline or self._process.poll() is not None:
                        said = (self._directory / "redis.log").read_text(errors="replace")[-2000:]
                        raise RuntimeError(f"Redis did not start: {said}") from None
                    time.sleep(0.02)

    def client(self) -> Redis:
        """A client, to look into it; to be closed."""
        return Redis(port=self.port)

    def stop(self) -> None:
        """End it; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def signal(self, number: int) -> None:
        """Send it a signal: SIGSTOP lets it stand still, with all its connections, until SIGCONT."""
        if self._process is not None:
            self._process.send_signal(number)
