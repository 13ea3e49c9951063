"""What all tests share: tools that may be missing, random seeds that can be replayed, and a browser."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest

# Feast sets it, and a worker of pytest-xdist begins with what its parent has: with it, all servers of a process share their counters. Looked at when
# the client is imported, which must come before Feast.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
import prometheus_client  # noqa: F401

from tests.kafka import broker

if TYPE_CHECKING:
    from tests.processes import Simulated

# Marker -> (is it there, how to get it). Such a test is skipped where the tool is missing, and fails there if TIDEMARK_REQUIRE names it.
TOOLS: dict[str, tuple[Callable[[], bool], str]] = {
    "kafka": (broker.present, broker.ADVICE),
    "redis": (lambda: shutil.which("redis-server") is not None, "no redis-server on PATH; to get it: apt-get install redis-server"),
    "cc": (lambda: shutil.which("cc") is not None, "no C compiler (cc) on PATH; to get it: apt-get install gcc libc6-dev"),
    "browser": (lambda: shutil.which("chromium") is not None, "no chromium on PATH; to get it: apt-get install chromium"),
    "promtool": (lambda: shutil.which("promtool") is not None, "no promtool on PATH; to get it: apt-get install prometheus"),
}
REQUIRE = "TIDEMARK_REQUIRE"

# Examples are random in every profile. The seed is printed at the end of the run; --hypothesis-seed replays it.
_COMMON = hypothesis.settings(deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("dev", _COMMON, max_examples=50)
hypothesis.settings.register_profile("ci", _COMMON, max_examples=25, database=None)
hypothesis.settings.register_profile("thorough", _COMMON, max_examples=2000)
hypothesis.settings.load_profile("dev")


def required_tools() -> set[str]:
    """The tools that TIDEMARK_REQUIRE names."""
    names = {name.strip() for name in os.environ.get(REQUIRE, "").split(",")} - {""}
    if names - set(TOOLS):
        raise pytest.UsageError(f"{REQUIRE} names {', '.join(sorted(names - set(TOOLS)))}; it is a comma list of {', '.join(TOOLS)}")
    return names


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    required_tools()
    # Set before hypothesis reads it, and handed on to the workers of pytest-xdist with the other options.
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Iterator[None]:
    """Of pytest-xdist's workers, none begins with a test before the loops are compiled; meanwhile they collect."""
    yield
    if getattr(session.config.option, "numprocesses", None):
        subprocess.run([sys.executable, "-m", "tests.compiling"], cwd=session.config.rootpath, check=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    seed = config.option.hypothesis_seed
    terminalreporter.write_line(f"hypothesis seed {seed} (replay: --hypothesis-seed={seed})")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, (present, advice) in TOOLS.items():
        if item.get_closest_marker(name) is None or present():
            continue
        if name in required_tools():
            pytest.fail(f"{REQUIRE} names {name}, but there is {advice}", pytrace=False)
        pytest.skip(f"{name}: {advice}")


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """The stream that all tests of a process share."""
    # Imported by who needs it: pytest-xdist's own process, and many a test alone, do without Feast and numba.
    from tests.processes import simulated_once

    return simulated_once(tmp_path_factory)


@dataclass(frozen=True)
class Page:
    """What a browser made of a page.

    Attributes
    ----------
    dom : str
        The document as HTML, after its scripts ran.
    screenshot : Path
        A PNG of the window.
    console : tuple of str
        What its scripts wrote to the console, uncaught errors and blocked requests too.
    """

    dom: str
    screenshot: Path
    console: tuple[str, ...]


class Chromium(Protocol):
    """Opens a page and returns what became of it."""

    def __call__(self, target: str | Path, *, width: int = 1280, height: int = 900, wait_ms: int = 5000) -> Page: ...


_CONSOLE = re.compile(r"^\[[^\]]*:CONSOLE:\d+\] \"(.*?)\", source: ", re.MULTILINE | re.DOTALL)


@pytest.fixture
def chromium(request: pytest.FixtureRequest, tmp_path: Path) -> Chromium:
    """Open a URL or a file in headless Chromium, with a profile of its own; for tests marked `browser`.

    `wait_ms` is virtual time: timers of the page run ahead, and time stands still while it loads something.
    """
    if request.node.get_closest_marker("browser") is None:
        pytest.fail("a test that uses the fixture chromium must be marked browser", pytrace=False)
    opened = 0

    def open_page(target: str | Path, *, width: int = 1280, height: int = 900, wait_ms: int = 5000) -> Page:
        nonlocal opened
        opened += 1
        url = target if isinstance(target, str) and re.match(r"[a-z]+:", target) else Path(target).resolve(strict=True).as_uri()
        screenshot = tmp_path / f"screenshot-{opened}.png"
        command = [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / f'chromium-{opened}'}", f"--window-size={width},{height}"),
            *(f"--virtual-time-budget={wait_ms}", f"--screenshot={screenshot}", "--dump-dom", url),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode or not screenshot.exists():
            pytest.fail(f"chromium could not open {url} (exit {done.returncode}):\n{done.stderr[-2000:]}", pytrace=False)
        return Page(done.stdout, screenshot, tuple(dict.fromkeys(_CONSOLE.findall(done.stderr))))

    return open_page
