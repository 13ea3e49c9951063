"""What a simulated world is like: how much it changes, how much pins and users differ, and what is known of it before anybody looks.

A world is a value of its own beside the sizes of a simulation, so that two simulations can differ in nothing but drift. The worlds of studies
are committed files in `worlds/`; this module never decides what a number does, only whether it can be one.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from flows.errors import SettingsError
from flows.toml_file import read_toml

WORLDS = Path(__file__).parent / "worlds"

RANGES: dict[str, tuple[float, float]] = {
    "interest_drift": (0.0, 20.0),
    "appeal_spread": (0.0, 2.0),
    "appeal_drift": (0.0, 2.0),
    "appeal_half_life": (1.0, 100_000.0),
    "head_spread": (0.0, 2.0),
    "user_spread": (0.0, 2.0),
    "revisit_spread": (0.0, 3.0),
    "fresh_pins": (0.0, 0.9),
    "fresh_burst": (0.0, 1_000.0),
    "new_users": (0.0, 0.9),
}
"""The least and the greatest value of each parameter that is no whole number."""
CANDIDATES = (4, 500)
"""The least and the greatest number of candidates of a request."""


@dataclass(frozen=True)
class World:
    """A world. Standard deviations are of natural logarithms; the defaults are a world in which interests alone drift.

    Attributes
    ----------
    interest_drift : float
        How many times users' interests change as far as they do by default from the begin to the end: 0, they stay; 1, once, evenly; 3, three times.
    appeal_spread : float
        Standard deviation of what makes a pin engaging whatever its topic.
    appeal_drift : float
        Standard deviation of a walk (AR(1), a step an hour, stationary) that is added to it. 0: a pin's appeal stays.
    appeal_half_life : float
        Hours after which half of what the walk added is left.
    head_spread : float
        How much of a pin's appeal is one head's alone: the standard deviation is this times the head's share (`appeal.OWN_SHARES`).
    user_spread : float
        Standard deviation of how readily a user does what a head stands for, whatever the pin.
    revisit_spread : float
        Standard deviation of the log-odds with which a save is come back to, by its pin and its user. The rates over all saves stay.
    fresh_pins : float
        Share of the pins that appear during the span, evenly spread; no request has one as a candidate before.
    fresh_burst : float
        By how many times a pin that has just appeared is more popular than it will be.
    new_users : float
        Share of the users whose first session comes during the span, evenly spread.
    candidates : int
        Pins of a request, of which at most ten are shown.
    """

    interest_drift: float = 1.0
    appeal_spread: float = 0.3
    appeal_drift: float = 0.0
    appeal_half_life: float = 72.0
    head_spread: float = 0.0
    user_spread: float = 0.0
    revisit_spread: float = 0.0
    fresh_pins: float = 0.0
    fresh_burst: float = 30.0
    new_users: float = 0.0
    candidates: int = 10

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and least <= value <= most):
                raise SettingsError(f"simulate: '{name}' is {value!r}; it must be a number from {least:g} to {most:g}")
            # 1 and 1.0 are one world, and truth.json names it in one way.
            object.__setattr__(self, name, float(value))
        least, most = CANDIDATES
        if type(self.candidates) is not int or not least <= self.candidates <= most:
            raise SettingsError(f"simulate: 'candidates' is {self.candidates!r}; it must be a whole number from {least} to {most}")

    def as_dict(self) -> dict[str, float | int]:
        """Name to value, for the truth."""
        return dataclasses.asdict(self)


SIZES_OF_WORLDS = ("users", "pins", "days", "events")
"""What a file of a world may name beside the fields of `World`."""


def load_world(world: str | Path) -> tuple[dict[str, int], World]:
    """The sizes that the file of a world names, and the world.

    Parameters
    ----------
    world : str or Path
        A name in `worlds/` ("drifting"), or the path of a TOML file.

    Raises
    ------
    SettingsError
        There is no such world, or the file says something that makes no sense.
    """
    known = sorted(path.stem for path in WORLDS.glob("*.toml"))
    path = WORLDS / f"{world}.toml" if str(world) in known else Path(world)
    if path.suffix != ".toml":
        raise SettingsError(f"--world {world}: there is no such world; name one of {', '.join(known)}, or a file that ends in .toml")
    found = read_toml("--world", path)
    names = [f.name for f in dataclasses.fields(World)]
    if strange := sorted(found.keys() - {*names, *SIZES_OF_WORLDS}):
        raise SettingsError(f"--world {path}: '{strange[0]}' is no parameter of a world; there are {', '.join([*SIZES_OF_WORLDS, *names])}")
    sizes = {name: found[name] for name in SIZES_OF_WORLDS if name in found}
    for name, value in sizes.items():
        if type(value) is not int:
            raise SettingsError(f"--world {path}: '{name}' is {value!r}; it must be a whole number")
    try:
        return sizes, World(**{name: found[name] for name in names if name in found})
    except SettingsError as error:
        raise SettingsError(f"--world {path}: {str(error).removeprefix('simulate: ')}") from None
