"""Training of an embedding: epochs over users, a row each, examples drawn on the way. It decides nothing about what becomes of the model.

What is random in a batch follows from its number and the seed. A training that was stopped goes on and ends with the bytes of one that never was.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flows import stopping
from flows.errors import CorruptionError
from online_model.embedding.batches import Windows, vector_rows
from online_model.embedding.config import EmbeddingConfig
from online_model.embedding.embedding_model import EmbeddingModel
from online_model.embedding.errors import NoPositivesError, VectorsError
from online_model.embedding.loss import sampled_softmax
from online_model.embedding.model import ActionBatch, PinnerFormer
from online_model.embedding.negatives import Pool, pool_of
from online_model.embedding.objectives import Drawing, Examples
from online_model.embedding.pin_vectors import PinVectors
from online_model.embedding.positives import Positives
from online_model.embedding.sequences import UserSequences
from online_model.embedding.sketch import CountMinSketch
from online_model.registry.build import build_of
from online_model.registry.tensors import from_bytes, to_bytes
from online_model.training import kept
from online_model.training.epoch import reproducible
from online_model.training.errors import DivergedError, TrainingStoppedError
from online_model.training.optimizer import OPTIMIZER, load_optimizer, save_optimizer

_ORDER, _BATCH = 1, 2
_CHUNK = 16
"""So many batches are sorted by length together, so that little of them is padding."""
_ROUNDED = 32
_WEIGHTS = "model.safetensors"


@dataclass
class Progress:
    """How far a training is: batches, actions that were read, and of the epoch at hand batches and the sum of their losses.

    `losses` are the means of the epochs before.
    """

    batches: int = 0
    actions: int = 0
    loss: float = 0.0
    losses: list[float] | None = None


class Training:
    """The batches of one training.

    Parameters
    ----------
    sequences : UserSequences
    vectors : PinVectors
    config : EmbeddingConfig
    device : torch.device

    Raises
    ------
    VectorsError
        Vectors are of another size than configured, or there are none.
    NoPositivesError
        Nobody has an example.
    SettingsError
        The configuration names an action or a surface that nobody knows.
    """

    def __init__(self, sequences: UserSequences, vectors: PinVectors, config: EmbeddingConfig, device: torch.device | str = "cpu") -> None:
        if not len(vectors):
            raise VectorsError(
                "no pin has a vector: there must be users with actions on two pins or more, or give vectors (--vectors FILE)"
            )
        if vectors.dim != config.vector_dim:
            raise VectorsError(f"vectors of pins have {vectors.dim} numbers, vector_dim says {config.vector_dim}; make them equal")
        self.config, self.vectors = config, vectors
        rows = vector_rows(vectors.rows_of(sequences.pin_ids), len(vectors))
        self._windows = Windows(sequences, rows)
        self.positives = Positives.of(sequences, rows, len(vectors), config)
        self._drawing = Drawing(sequences, self.positives, config)
        self.users = self._drawing.users
        if not len(self.users):
            raise NoPositivesError(
                f"none of {len(sequences):,} users has an action before a positive one on a pin with a vector; positive are "
                f"{', '.join(config.positives)}: say otherwise in the model file, or read more actions"
            )
        self._lengths = np.minimum(sequences.lengths, config.length)
        self._device = torch.device(device)
        self.former = PinnerFormer(config, torch.from_numpy(vectors.vectors)).to(self._device).train()
        self.optimizer = torch.optim.AdamW(self.former.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.sketch = CountMinSketch(config.sketch_width, config.sketch_depth, config.seed)
        self.progress = Progress(losses=[])
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def batches_in_epoch(self) -> int:
        return -(-len(self.users) // self.config.batch_users)

    @property
    def batches(self) -> int:
        """In all."""
        return self.batches_in_epoch * self.config.epochs

    def step(self) -> None:
        """Learn from the next batch.

        Raises
        ------
        DivergedError
            The loss is no number; nothing was changed by this batch.
        """
        number = self.progress.batches
        batch, examples, pool = self.made_ready(number)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate_at(number, self.batches, self.config.warmup)
        torch.manual_seed(int(np.random.default_rng([self.config.seed, _BATCH, number, 1]).integers(2**63)))
        loss = loss_of(self.former, batch, examples, pool)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"training: the loss of batch {number} is {value}; train again with a smaller learning_rate")
        learn(self.former, self.optimizer, loss)
        self._count(value, int(batch.length.sum()))

    def made_ready(self, number: int) -> tuple[ActionBatch, Examples, Pool]:
        """What a batch learns from; its positive pins are counted."""
        rng = np.random.default_rng([self.config.seed, _BATCH, number, 0])
        users = self._users_of(number)
        examples = self._drawing.draw(users, rng)
        pool = pool_of(users, examples.pin, self.positives, len(self.vectors), self.sketch, self.config, rng)
        longest = int((examples.last - examples.first).max())
        length = min(-(-longest // _ROUNDED) * _ROUNDED, self.config.length)
        return self._windows.batch(examples.first, examples.last, length).to(self._device), examples, pool

    def _users_of(self, number: int) -> np.ndarray:
        """Users of a batch: an epoch's are shuffled, those of like length put together within some batches, and these shuffled."""
        epoch, place = divmod(number, self.batches_in_epoch)
        if self._order is None or self._order[0] != epoch:
            rng, size = np.random.default_rng([self.config.seed, _ORDER, epoch]), self.config.batch_users
            users = rng.permutation(self.users)
            chunk = np.arange(len(users)) // (size * _CHUNK)
            users = users[np.lexsort((self._lengths[users], chunk))]
            batches = rng.permutation(self.batches_in_epoch)
            self._order = (epoch, np.concatenate([users[i * size : (i + 1) * size] for i in batches.tolist()]))
            sizes = np.minimum((batches + 1) * size, len(users)) - batches * size
            self._starts = np.concatenate([[0], np.cumsum(sizes)])
        return self._order[1][self._starts[place] : self._starts[place + 1]]

    def _count(self, loss: float, actions: int) -> None:
        p = self.progress
        total, losses = p.loss + loss, p.losses or []
        if (p.batches + 1) % self.batches_in_epoch == 0:
            losses, total = [*losses, total / self.batches_in_epoch], 0.0
        self.progress = Progress(p.batches + 1, p.actions + actions, total, losses)

    def save(self, directory: Path, name: str) -> None:
        """Keep where it stands."""
        kept.keep(directory, self.progress.batches, name, asdict(self.progress), self._write)

    def _write(self, draft: Path) -> None:
        state = {name: value.detach().cpu().numpy() for name, value in self.former.state_dict().items()}
        state |= {"sketch": self.sketch.table, "sketch_total": np.array([self.sketch.total])}
        (draft / _WEIGHTS).write_bytes(to_bytes(state))
        save_optimizer(self.optimizer, draft / OPTIMIZER)

    def restore(self, directory: Path, name: str) -> None:
        """Stand where it was kept.

        Raises
        ------
        CheckpointError, CorruptionError
        """
        path, progress = kept.latest(directory, name)
        state = from_bytes((path / _WEIGHTS).read_bytes(), str(path / _WEIGHTS))
        try:
            self.sketch.table, self.sketch.total = state.pop("sketch").copy(), int(state.pop("sketch_total")[0])
            self.former.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in state.items()})
            self.progress = Progress(**progress)
        except (KeyError, RuntimeError, TypeError) as error:
            raise CorruptionError(
                f"training's checkpoint {path} can't be gone on with ({error}); delete {directory} and train from the beginning"
            ) from error
        load_optimizer(self.optimizer, path / OPTIMIZER)

    def name(self, sequences: str) -> str:
        """What names the training: all that decides its bytes."""
        settings = self.config.to_dict() | {"checkpoint_every": None}
        said = [settings, sequences, self.vectors.digest(), asdict(build_of(self.config.seed, self._device))]
        return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def loss_of(former: PinnerFormer, batch: ActionBatch, examples: Examples, pool: Pool) -> torch.Tensor:
    """The loss of one batch."""
    device = batch.pin.device
    user, output, pin, weight, candidates, log_q, positive_log_q, own = (
        torch.from_numpy(value).to(device)
        for value in (
            examples.user, examples.output, examples.pin, examples.weight, pool.pin, pool.log_q, pool.positive_log_q, pool.own[examples.user],
        )
    )  # fmt: skip
    outputs = former.outputs(former.states(batch)[user, output])
    positive, others = former.pins(former.vectors(pin)), former.pins(former.vectors(candidates))
    return sampled_softmax(outputs, positive, others, own, log_q, positive_log_q, former.temperature, weight)


def learn(former: PinnerFormer, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of the optimiser."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(former.parameters(), former.config.clip)
    optimizer.step()
    with torch.no_grad():
        # Kept where it still has a gradient.
        former.log_temperature.clamp_(min=math.log(former.config.least_temperature))


def rate_at(batch: int, batches: int, warmup: float) -> float:
    """What the learning rate is multiplied with: it rises for a share of the batches, then falls along half a cosine."""
    rising = max(1, round(batches * warmup))
    if batch < rising:
        return (batch + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (batch - rising) / max(batches - rising, 1)))


def train(
    sequences: UserSequences,
    vectors: PinVectors,
    config: EmbeddingConfig,
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    device: torch.device | str = "cpu",
) -> tuple[EmbeddingModel, dict[str, Any]]:
    """Train an embedding.

    Parameters
    ----------
    sequences : UserSequences
    vectors : PinVectors
    config : EmbeddingConfig
    checkpoints : Path, optional
        Where the training is kept every `config.checkpoint_every` batches and when it is stopped, and from where it goes on. Whoever has kept the
        model empties it.
    progress : callable
        Told batches done, and how many there are.
    device : torch.device or str

    Returns
    -------
    model : EmbeddingModel
    metrics : dict
        ``users`` that were learned from, of ``users_given``; ``positives``; ``batches``; ``actions`` read; ``losses``: the mean of each epoch;
        ``temperature`` at the end.

    Raises
    ------
    VectorsError, NoPositivesError, SettingsError
        As of `Training`.
    TrainingStoppedError
        The process was asked to stop.
    DivergedError
    CheckpointError, CorruptionError
        What is to go on is damaged.
    """
    with reproducible(torch.device(device)):
        training = Training(sequences, vectors, config, device)
        place = checkpoints / training.name(sequences.digest()) if checkpoints is not None else None
        _run(training, place, progress)
    model = EmbeddingModel(training.former.eval(), vectors, dict(sequences.actions), dict(sequences.surfaces))
    done = training.progress
    return model, {
        "users": len(training.users),
        "users_given": len(sequences),
        "positives": len(training.positives.place),
        "batches": done.batches,
        "actions": done.actions,
        "losses": done.losses or [],
        "temperature": float(training.former.temperature.detach()),
    }


def _run(training: Training, place: Path | None, progress: Callable[[int, int], None]) -> None:
    name = place.name if place is not None else ""
    if place is not None and kept.there(place):
        training.restore(place, name)
    total = training.batches
    progress(training.progress.batches, total)
    while training.progress.batches < total:
        if stopping.requested():
            if place is not None:
                training.save(place, name)
            raise TrainingStoppedError(
                f"training: stopped after {training.progress.batches:,} of {total:,} batches; "
                + (
                    "the same command goes on from there"
                    if place is not None
                    else "nothing was kept, for no place for checkpoints was given"
                )
            )
        training.step()
        if place is not None and training.progress.batches % training.config.checkpoint_every == 0:
            training.save(place, name)
        progress(training.progress.batches, total)
