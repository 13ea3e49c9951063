"""What an evaluation is of, as a value that lies in a file: world, split, seeds, model, and what the tables vary. No result may change it.

`simulator` and `mathoverflow` lie in `plans/`; anybody's own is a file like them. Its table [quick] says what the small evaluation has otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flows.errors import SettingsError
from flows.simulate.world import SIZES_OF_WORLDS
from flows.toml_file import read_toml
from flows.vocabulary import suggestion
from online_model.embedding.config import FEATURES, MOST_LENGTH, MOST_SEED, EmbeddingConfig, Positive

PLANS = Path(__file__).parent / "plans"
ALL = "all"
"""What tables call all positive actions together, beside those of [types]."""
YARDSTICK = "leave-one-out"
"""The one file there that is of another protocol."""
EVENTS, LOG = "events", "log"
"""Worlds that are no simulated ones: a file of events that is given, and the log of the data directory."""


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation.

    Parameters
    ----------
    name : str
    world : str
        The name or file of a simulated world, `events` or `log`.
    sizes : mapping of str to int
        Of a simulated world, in the place of its own.
    window_days : float
        The last so many days are evaluated (14).
    history_days : float, optional
        So many days before are known; by default all.
    evaluated : float
        Share of the users who are evaluated for a seed, and not learned from. Where all seeds have one world, those of different seeds are apart.
    seeds : sequence of int
        Of the simulation, of who is evaluated, and of the training: three or more for a claim.
    resamples : int
        Of users, for the intervals.
    corpus : int
        So many pins are drawn at random, and pins are ranked among them; 0: all that have a vector.
    embedding : EmbeddingConfig
        Of every arm, but for what the arm varies.
    types : mapping of str to sequence of str
        Kinds of positive actions, each learned alone in table 5; none: there is no such table.
    without : mapping of str to sequence of str
        Features that table 6 leaves out together, by the name of the row.
    lengths : sequence of int
        Lengths of figure 4; that of `embedding` is the last.

    Raises
    ------
    SettingsError
        A value makes no evaluation.
    """

    name: str
    world: str
    embedding: EmbeddingConfig
    window_days: float = 14.0
    history_days: float | None = None
    evaluated: float = 0.3
    seeds: tuple[int, ...] = (11, 12, 13)
    resamples: int = 1_000
    corpus: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (("window_days", 0.0, 36_500.0), ("history_days", 0.0, 36_500.0), ("evaluated", 0.0, 1.0)):
            value = getattr(self, name)
            fits = isinstance(value, int | float) and not isinstance(value, bool) and low < value < high
            if not fits and (name, value) != ("history_days", None):
                raise SettingsError(f"{self.name}: {name} must be above {low:g} and below {high:g}, not {value!r}")
        for name, least in (("resamples", 2), ("corpus", 0)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise SettingsError(f"{self.name}: {name} must be a whole number of at least {least}, not {getattr(self, name)!r}")
        for name, least, most in (("seeds", 0, MOST_SEED), ("lengths", 1, MOST_LENGTH)):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or not all(type(one) is int and least <= one <= most for one in values):
                raise SettingsError(
                    f"{self.name}: {name} must be a list of whole numbers of at least {least} and at most {most}, not {values!r}"
                )
            object.__setattr__(self, name, tuple(dict.fromkeys(values)))
        if not self.seeds:
            raise SettingsError(f"{self.name}: seeds must name one at least")
        if not self.simulated and self.evaluated * len(self.seeds) > 1:
            raise SettingsError(
                f"{self.name}: of one world, {len(self.seeds)} seeds can't each evaluate {self.evaluated:g} of the users, apart from each other; "
                f"set evaluated to {1 / len(self.seeds):.2g} or less, or name fewer seeds"
            )
        if not isinstance(self.world, str) or not self.world:
            raise SettingsError(f"{self.name}: world must be a simulated world, '{EVENTS}' or '{LOG}', not {self.world!r}")
        for size, value in self.sizes.items():
            if size not in SIZES_OF_WORLDS or type(value) is not int:
                raise SettingsError(f"{self.name}: [sizes] has whole numbers for {', '.join(SIZES_OF_WORLDS)}; not '{size}' = {value!r}")
        for name in ("types", "without"):
            of = getattr(self, name)
            if not isinstance(of, Mapping) or not all(_texts(one) for one in of.values()):
                raise SettingsError(f"{self.name}: [{name}] must give a list of texts to each name")
            object.__setattr__(self, name, {key: tuple(values) for key, values in of.items()})
        if ALL in self.types:
            raise SettingsError(
                f"{self.name}: [types]: '{ALL}' is the row of all positive actions together; give those actions another name"
            )
        for rules in self.types.values():
            for rule in rules:
                Positive.of(rule)
        for feature in (one for names in self.without.values() for one in names):
            if feature not in FEATURES:
                raise SettingsError(
                    f"{self.name}: [without]: there is no feature '{feature}'{suggestion(feature, list(FEATURES))}; "
                    f"there are {', '.join(FEATURES)}"
                )

    @property
    def simulated(self) -> bool:
        """Whether each seed has a world of its own."""
        return self.world not in (EVENTS, LOG)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the report."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("types", "without"):
            plain[name] = {key: list(values) for key, values in plain[name].items()}
        return plain | {
            "embedding": self.embedding.to_dict(),
            "sizes": dict(self.sizes),
            "seeds": list(self.seeds),
            "lengths": list(self.lengths),
        }


def read_plan(name: str, quick: bool = False) -> EvaluationPlan:
    """A plan by its name in `plans/`, or by its file.

    Parameters
    ----------
    name : str
    quick : bool
        Whether its table [quick] counts.

    Raises
    ------
    SettingsError
        There is no such plan, or it says something that makes no sense.
    """
    known = sorted(path.stem for path in PLANS.glob("*.toml") if path.stem != YARDSTICK)
    path = PLANS / f"{name}.toml" if name in known else Path(name)
    if path.suffix != ".toml":
        raise SettingsError(f"--plan {name}: there is no such plan; name one of {', '.join(known)}, or a file that ends in .toml")
    where = f"--plan {path.stem if name in known else path}"
    content = read_content(path, where, [one.name for one in fields(EvaluationPlan) if one.name != "name"], ("embedding", "sizes"), quick)
    if "world" not in content:
        raise SettingsError(f'{where}: it names no world; say world = "drifting", "{EVENTS}" or "{LOG}"')
    embedding = EmbeddingConfig.from_dict(content.pop("embedding", {}), f"{where}: [embedding]")
    try:
        return EvaluationPlan(name=path.stem, embedding=embedding, **content)
    except SettingsError as error:
        raise SettingsError(f"{where}: {str(error).removeprefix(f'{path.stem}: ')}") from None


def read_content(path: Path, where: str, names: list[str], tables: Sequence[str], quick: bool) -> dict[str, Any]:
    """What a file says, or what it says of the small evaluation; of tables, each key is replaced for itself.

    Parameters
    ----------
    path : Path
    where : str
        What begins a message.
    names : list of str
        Settings that there are.
    tables : sequence of str
        Those of them that are tables and are merged: not such as name rows.
    quick : bool
        Whether [quick] counts.

    Raises
    ------
    SettingsError
        It has another setting, another thing where a table must be, or nothing for `quick`.
    """
    content = read_toml("--plan", path)
    smaller = content.pop("quick", {})
    if not isinstance(smaller, Mapping):
        raise SettingsError(f"{where}: 'quick' must be a table, [quick]")
    for of, table, known in ((content, "", [*names, "quick"]), (smaller, "quick.", names)):
        for key in of:
            if key not in known:
                raise SettingsError(f"{where}: there is no setting '{table}{key}'{suggestion(key, known)}; there are {', '.join(known)}")
        for key in tables:
            if not isinstance(of.get(key, {}), Mapping):
                raise SettingsError(f"{where}: '{table}{key}' must be a table, [{table}{key}]")
    if not quick:
        return content
    if not smaller:
        raise SettingsError(
            f"{where}: it doesn't say what a quick evaluation is; say in a table [quick] what is smaller (epochs, say: "
            "embedding = { epochs = 1 }), or leave --quick out"
        )
    return content | {key: {**content.get(key, {}), **value} if key in tables else value for key, value in smaller.items()}


def _texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and bool(values) and all(isinstance(one, str) for one in values)
