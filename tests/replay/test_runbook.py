"""The runbook is honest: its commands are there, with their options; what it quotes is in the code; its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from tidemark import cli

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/runbook.md").read_text("utf-8")
CODE = "\n".join(path.read_text("utf-8") for top in ("flows", "online_model", "replay") for path in sorted((ROOT / top).rglob("*.py")))
# In code, a sentence may go on in the next line's string.
JOINED = re.sub(r'"\s*\n\s*f?"', "", CODE)

METRICS = (ROOT / "docs/metrics.md").read_text("utf-8")
COMMANDS = sorted({line.strip() for line in re.findall(r"(?:`|^\$ )(tidemark [^`\n]*)", TEXT, re.MULTILINE)})
_, _, TABLE = TEXT.partition("| you see | go to |")
MESSAGES = sorted(
    {quoted for row in TABLE.split("\n\n")[0].splitlines() for quoted in re.findall(r"`([^`]+)`", row.split("|")[1] if "|" in row else "")}
)


def resolve(words: list[str]) -> None:
    """Fail unless click knows the command, and every option of it."""
    command: click.Command = cli
    context = click.Context(cli)
    while words and isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_are_there(line: str) -> None:
    resolve(shlex.split(line)[1:])


@pytest.mark.parametrize("line", ["tidemark replay mend", "tidemark replay restore --from-zero"])
def test_a_command_that_is_none_is_found(line: str) -> None:
    with pytest.raises(AssertionError):
        resolve(shlex.split(line)[1:])


def in_code(message: str) -> bool:
    """Whether a message stands in the code, what differs from time to time left out."""
    parts = [part for part in re.split(r"'[^']*'", message) if part.strip()]
    return all(part.strip() in JOINED for part in parts)


@pytest.mark.parametrize("message", [message for message in MESSAGES if not message.startswith("tidemark ")])
def test_its_messages_are_in_the_code(message: str) -> None:
    # RocksDB's own; and a metric, which docs/metrics.md names, as tests/ops/test_metrics.py sees to.
    assert in_code(message) or message in ("block checksum mismatch",) or f"`{message}`" in METRICS


def test_no_table_is_cut_in_two() -> None:
    assert "|\n\n|" not in TEXT


def test_a_message_that_nobody_says_is_found() -> None:
    assert not in_code("the moon is full")


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) > 10
    assert len(MESSAGES) > 15


def test_its_links_lead_somewhere() -> None:
    headings = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^## (.*)$", TEXT, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert links <= headings
    assert headings - links == {"practise"}


def test_verify_names_commands_that_are_there() -> None:
    """What it says to do about a problem."""
    texts = [(ROOT / "replay" / name).read_text("utf-8") for name in ("verify.py", "verify_models.py")]
    named = re.findall(r"`(tidemark [a-z -]+?)(?: \{[a-z]+\})?`", "".join(texts))
    assert len(named) > 4
    for line in named:
        resolve(shlex.split(line)[1:])
