"""`tidemark embed train`: the options, and what is told of a training."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from flows import stopping
from flows.settings import Settings
from flows.time_option import Time
from online_model.embedding.actions import read_actions
from online_model.embedding.begun import Begun
from online_model.embedding.config import MOST_EPOCHS, MOST_SEED, EmbeddingConfig, read_config
from online_model.embedding.learned_vectors import learned_vectors
from online_model.embedding.pin_vectors import read_vectors
from online_model.embedding.training import train
from online_model.embedding.version import write
from online_model.registry.build import build_of
from online_model.retrain.progress import StageBars


@click.command("train", epilog="Example: tidemark embed train; tidemark embed train --vectors pins.parquet --model model.toml --epochs 20")
@click.option(
    "--vectors",
    "vectors_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Parquet: pin_id, vector (list of float). By default vectors are learned from which pins the same users act on.",
)
@click.option("--model", "model_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="TOML with [embedding].")
@click.option("--as-of", type=Time(), help="Learn from actions up to this moment. By default from all.")
@click.option(
    "--epochs", type=click.IntRange(1, MOST_EPOCHS), help="So often each user is learned from. Default 10, or what the model file says."
)
@click.option(
    "--seed", type=click.IntRange(0, MOST_SEED), help="Of first weights, order and what is drawn. Default 0, or what the model file says."
)
@click.option("--threads", type=click.IntRange(1, 256), help="Of torch; they decide bits, and stand in the manifest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def train_command(
    settings: Settings,
    vectors_file: Path | None,
    model_file: Path | None,
    as_of: int | None,
    epochs: int | None,
    seed: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Train an embedding of users and pins on the actions that the log holds, and keep it as the next version.

    Accepted engagements count, as for features: no duplicates, nothing late or malformed, corrections applied. Which of them are positive is said
    in the model file (positives = ["save", "closeup > 10s", "click@homefeed > 10s"]).

    Nothing is served by this. Stopped or killed, the same command goes on where it was, with the actions that it had begun with.
    """
    config = read_config(model_file) if model_file is not None else EmbeddingConfig()
    given = read_vectors(vectors_file) if vectors_file is not None else None
    chosen: dict[str, Any] = {"epochs": epochs, "seed": seed, "vector_dim": given.dim if given is not None else None}
    config = replace(config, **{name: value for name, value in chosen.items() if value is not None})
    if threads is not None:
        torch.set_num_threads(threads)
    stopping.listen()
    started, begun = time.monotonic(), Begun(settings)
    asked = {"config": config.to_dict(), "vectors": given.digest() if given is not None else None, "as_of": as_of}
    with begun.alone():
        prefix = begun.prefix(asked)
        if begun.given_up:
            click.echo("tidemark: a training that was cut off had been asked for otherwise, or of another log: it is given up", err=True)
        with StageBars(quiet=as_json) as bars:
            sequences = read_actions(settings, until=prefix, progress=lambda done, total: bars("reading", done, total))
            if as_of is not None:
                sequences = sequences.until(as_of)
            bars("vectors", 0, 1)
            vectors = given if given is not None else learned_vectors(sequences, config.vector_dim, config.seed)
            bars("vectors", 1, 1)
            model, metrics = train(sequences, vectors, config, begun.checkpoints, lambda done, total: bars("training", done, total))
            took = bars.seconds
        path = write(
            settings,
            model,
            sequences=sequences.digest(),
            vectors=vectors.digest(),
            vectors_from="log" if given is None else "file",
            reflects=prefix,
            build=build_of(config.seed),
            metrics=metrics,
        )
        begun.end()
    _tell(path, len(vectors), metrics, took | {"all": time.monotonic() - started}, as_json)


def _tell(path: Path, pins: int, metrics: dict[str, Any], seconds: dict[str, float], as_json: bool) -> None:
    if as_json:
        rounded = {name: round(took, 3) for name, took in seconds.items()}
        click.echo(json.dumps({"version": int(path.name), "path": str(path), "pins": pins, "seconds": rounded, **metrics}))
        return
    losses = metrics["losses"]
    click.echo(
        f"learned from {metrics['users']:,} of {metrics['users_given']:,} users, {metrics['positives']:,} positive actions, "
        f"{pins:,} pins with a vector; " + ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
    )
    click.echo(
        f"loss {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last of {len(losses)}; temperature {metrics['temperature']:.4f}"
    )
    click.echo(f"embedding version {path.name} lies in {path}")
