"""The front door: one command line, a thin dispatcher. Each command lives with what it commands and is imported only when it is called."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from flows.errors import TidemarkError, one_line
from flows.lazy_group import LazyGroup
from flows.settings import load_settings

# Click calls them "integer range" and "float range", also where somebody typed no number at all.
click.IntRange.name, click.FloatRange.name = "whole number", "number"
_INTERRUPTED = "interrupted; what was committed is safe, run the same command again to continue"

COMMANDS = {
    "demo": ("feature_repo.demo:demo", "Simulate, ingest, run, look: the whole main job in a minute."),
    "simulate": ("flows.simulate.command:simulate", "Simulate a population and what it does."),
    "ingest": ("flows.ingest.command:ingest", "Append actions from files to the log."),
    "run": ("flows.run.command:run", "Run the flows over the log."),
    "status": ("flows.status_command:status", "Where every task stands."),
    "features": ("feature_repo.command:features", "Features of a user, a pin or a topic, or of all."),
    "online": ("flows.online.command:online", "Redis beside task state: fill it, and see where it stands."),
    "serve": ("replay.console.command:serve", "Features and rankings over HTTP, each answer kept in a log; and the console."),
    "retrain": ("online_model.retrain.command:retrain_command", "A new base from the last one, served if it is not worse."),
    "embed": ("online_model.embedding.command:embed", "Users and pins as vectors of one space, from what users did."),
    "models": ("online_model.registry.commands:models", "Which models there are, and which one is served to whom."),
    "skew": ("flows.skew.command:skew", "Whether what was served is what the log says, and how it moves."),
    "examples": ("flows.examples.command:examples", "What was seen, and what came of it: examples to learn from."),
    "learn": ("online_model.learner.command:learn", "Learn online: rows of users and pins, on the base that is served."),
    "backfill": ("flows.examples.backfill.command:backfill", "Training examples of a history that was not served by Tidemark."),
    "evaluate": ("online_model.evaluation.command:evaluate", "How good scores are, and whether others are better."),
    "labels": ("flows.labels_command:labels", "Labels of saves."),
    "deadletters": ("flows.deadletters_command:deadletters", "Records that could not be taken."),
    "topics": ("flows.topics_command:topics", "The topics of Kafka that stand for the logs."),
    "archive": ("flows.archive.command:archive", "Parquet segments of the logs, for what retention takes."),
    "replay": ("replay.command:replay", "Checkpoints of state; find damage, and put it right."),
    "report": ("flows.report_command:report", "What the history says, and what moves over time: a page with plots."),
}


def _with_location(command: click.Command) -> click.Command:
    """Give a command, or all those of a group, --data and --config; a lazy group's get them as they are imported."""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _with_location(child)
    elif not any(p.name == "data" for p in command.params):
        command.params += [
            _location_option("--data", "DIR", "Data directory."),
            _location_option("--config", "FILE", "Config file (TOML)."),
        ]
    return command


def _location_option(name: str, metavar: str, text: str) -> click.Option:
    return click.Option([name], type=click.Path(path_type=Path), metavar=metavar, help=text, expose_value=False, callback=_locate)


def _locate(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    """Remember a location; the last one given on the line holds, and settings are read once per command."""
    given: dict[str, Any] = ctx.meta.setdefault("tidemark.location", {})
    if value is not None and parameter.name is not None:
        given[parameter.name] = value
    elif ctx.obj is not None:
        return
    ctx.obj = load_settings(data=given.get("data"), config=given.get("config"))


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    adapt=_with_location,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try: tidemark demo. Then: tidemark ingest FILE, tidemark run, tidemark features user ID.",
)
@click.version_option(package_name="tidemark")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    expose_value=False,
    callback=_locate,
    help="Data directory (TIDEMARK_DATA, ./data).",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    expose_value=False,
    callback=_locate,
    help="Config file (TIDEMARK_CONFIG, ./tidemark.toml).",
)
def cli() -> None:
    """Tidemark: exact realtime features from a log of user actions.

    Actions arrive on a log; flows turn them, in event time, into action sequences, revisit labels and rolling counters; Feast serves them.
    All of it is a function of a log prefix: stop it anywhere, start it again, rescale it, and it is the same to the byte.
    """


def main() -> None:
    """Run the command line as a process, and end it without C++'s own end.

    Threads of Arrow's may still be ending when the interpreter does, and then C++ now and then aborts a command that has done all it had to.
    """
    # Metrics here are of one process. Under this variable, which Feast sets for its servers and children inherit, the client would keep them in
    # files that other processes share.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    try:
        command_line()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


class _Terminated(SystemExit):
    """SIGTERM, where no command has taken it over: it ends as Ctrl-C does."""


def _terminate(number: int, frame: Any) -> None:
    # A second one ends it whatever it is at.
    signal.signal(number, signal.SIG_DFL)
    raise _Terminated(128 + number)


def command_line() -> None:
    """Run the command line; errors meant for the user are one line and an exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        click.echo(_INTERRUPTED, err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        error.message = one_line(error.message)  # type: ignore[misc]
        error.show()
        sys.exit(error.exit_code)
    except TidemarkError as error:
        click.echo("\n".join(one_line(line) for line in (f"tidemark: {error}", *error.below)), err=True)
        sys.exit(error.exit_code)
    except _Terminated as terminated:
        click.echo(_INTERRUPTED, err=True)
        sys.exit(terminated.code)
    except KeyboardInterrupt:
        click.echo(_INTERRUPTED, err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
