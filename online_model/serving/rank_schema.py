"""What a request for a ranking may say, and how it becomes arrays. Whatever is not declared here is refused, never ignored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictInt, StrictStr

from online_model.serving.errors import BadRequestError
from online_model.serving.schema import ALLOWING, AS_OF, FINGERPRINT, REQUEST_ID, Id, from_json, ids

MOST_CANDIDATES = 1_000
"""Of one request; features of as many are read at once."""
OWN_CANDIDATES = 500
"""Of a request that names none: the nearest to the user, where embeddings are served, else the pins that were seen most often in what the base has
learned from."""
DEFAULT_K = 25

_EXAMPLE: dict[str, JsonValue] = {"user": 42, "candidates": [1234, 77, "my-pin"], "surface": "homefeed", "k": 2, "request_id": "4f1c0a7e"}


class RankRequest(BaseModel):
    """A user, and the pins of which the best are wanted; an ID is a whole number, or the text that was ingested."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    user: Id = Field(description="For whom.")
    surface: StrictStr = Field(max_length=200, description="Where they will be shown, a surface of the vocabulary.")
    candidates: list[Id] | None = Field(
        default=None,
        description=f"Pins to choose from, {MOST_CANDIDATES} at most; one that is there twice counts once. By default the server's own.",
    )
    k: StrictInt = Field(default=DEFAULT_K, ge=1, le=MOST_CANDIDATES, description="How many are wanted.")
    as_of: StrictInt | None = AS_OF
    request_id: StrictStr | None = REQUEST_ID
    fingerprint: StrictStr | None = FINGERPRINT
    allow_other_fingerprint: bool = Field(default=False, strict=True, description=ALLOWING)


@dataclass(frozen=True, eq=False)
class Wanted:
    """A ranking that is asked for.

    Attributes
    ----------
    user : int
    candidates : int64[n] or None
        Each once, in the order of their first mention; None: the server's own.
    k : int
    as_of : int or None
    """

    user: int
    candidates: np.ndarray | None
    k: int
    as_of: int | None


def parsed_rank(body: bytes) -> tuple[RankRequest, Wanted]:
    """A request from its JSON.

    Raises
    ------
    NotJsonError
        It is none.
    BadRequestError
        It says what can't be meant, or more than a request may.
    """
    said = from_json(RankRequest, body, '{"user": 42, "surface": "homefeed", "candidates": [1, 2]}')
    candidates = None
    if said.candidates is not None:
        if not said.candidates:
            raise BadRequestError("candidates is empty", "name some pins, or leave it out to have the server's own ranked")
        if len(said.candidates) > MOST_CANDIDATES:
            raise BadRequestError(
                f"{len(said.candidates)} candidates are given, and a request may have {MOST_CANDIDATES}",
                "leave out those that are least likely to be wanted",
            )
        candidates = _once(ids("candidates", said.candidates))
    return said, Wanted(int(ids("user", [said.user])[0]), candidates, said.k, said.as_of)


def _once(pins: np.ndarray) -> np.ndarray:
    _, first = np.unique(pins, return_index=True)
    return pins[np.sort(first)]
