"""What a request may say, and how it becomes arrays. Whatever is not declared here is refused, never ignored."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from flows.events import INT64_MAX, INT64_MIN, MAX_EVENT_TIME, MAX_RAW_BYTES, ids_of
from flows.vocabulary import Vocabulary, suggestion
from online_model.serving.answer import Ask
from online_model.serving.errors import BadRequestError, NotJsonError, OtherFingerprintAskedError
from online_model.serving.options import Options
from online_model.serving.packing import Request

MAX_BODY_BYTES = 4 << 20

# No record is longer that can be taken. A GET says less: its whole head has 64 KiB at most.
MAX_TEXT = MAX_RAW_BYTES

Topic = Annotated[StrictStr, Field(max_length=MAX_TEXT)]
Id = StrictInt | Topic
Body = TypeVar("Body", bound=BaseModel)

AS_OF = Field(
    default=None,
    ge=0,
    le=MAX_EVENT_TIME,
    description="Take events up to this time, ms UTC; by default the greatest accepted event time.",
    examples=[None],
)
REQUEST_ID = Field(
    default=None,
    min_length=1,
    max_length=200,
    description="Under which the answer is kept in SERVED; by default one is made.",
    examples=["4f1c0a7e"],
)
SURFACE = Field(default=None, max_length=200, description="Where it will be shown, a surface of the vocabulary.", examples=["homefeed"])
FINGERPRINT = Field(
    default=None,
    max_length=64,
    description="Of the features that the client was made for; with others, which mean something else, it is refused (409).",
    examples=[None],
)
ALLOWING = "Serve a client that was made for other features all the same."


class GetQuery(BaseModel):
    """What stands behind the question mark."""

    model_config = ConfigDict(extra="forbid")

    as_of: int | None = AS_OF
    request_id: str | None = REQUEST_ID
    surface: str | None = SURFACE
    fingerprint: str | None = FINGERPRINT
    allow_other_fingerprint: bool = Field(default=False, description=ALLOWING)


class BatchRequest(BaseModel):
    """Users, pins and topics whose features are asked for at once; an ID is a whole number, or the text that was ingested."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"users": [42], "pins": [1234, 77, "my-pin"], "surface": "homefeed", "request_id": "4f1c0a7e"}]},
    )

    users: list[Id] = Field(default_factory=list, description="For each one the action sequence and the revisit counters.")
    pins: list[Id] = Field(default_factory=list, description="For each one the revisit counters.")
    topics: list[Topic] = Field(default_factory=list, description="For each one the revisit statistics.")
    as_of: StrictInt | None = AS_OF
    request_id: StrictStr | None = REQUEST_ID
    surface: StrictStr | None = SURFACE
    fingerprint: StrictStr | None = FINGERPRINT
    allow_other_fingerprint: bool = Field(default=False, strict=True, description=ALLOWING)


def parsed(body: bytes, options: Options) -> tuple[BatchRequest, Ask]:
    """A batch from its JSON.

    Raises
    ------
    NotJsonError
        It is none.
    BadRequestError
        It says what can't be meant, nothing, or more than a request may.
    """
    said = from_json(BatchRequest, body, '{"users": [42], "pins": [1, 2]}')
    ask = Ask(ids("users", said.users), ids("pins", said.pins), tuple(said.topics), said.as_of)
    if not ask.entities:
        raise BadRequestError("no entity is asked for", "name some in users, pins or topics")
    if ask.entities > options.most_entities:
        raise BadRequestError(
            f"{ask.entities} entities are asked for, and a request may ask for {options.most_entities}",
            "send several requests, or have the server started with a larger --max-entities",
        )
    return said, ask


def from_json(model: type[Body], body: bytes, example: str) -> Body:
    """What a body says.

    Parameters
    ----------
    model : type
        What it may say.
    example : str
        A body that could be meant, for the advice.

    Raises
    ------
    NotJsonError
        It is no JSON.
    BadRequestError
        A field is not declared, is said twice, or has a value that it can't have.
    """
    try:
        said = model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise NotJsonError(f"the body is no JSON: {first['ctx']['error']}", f"send an object such as {example}") from None
        raise refused([dict(first)], model.model_fields) from None
    # Pydantic takes the last of several.
    json.loads(body, object_pairs_hook=said_once)
    return said


def said_once(pairs: Iterable[tuple[str, Any]]) -> None:
    """Hold names and their values to one value each.

    Raises
    ------
    BadRequestError
        A name is there again.
    """
    twice = next((name for name, times in Counter(name for name, _ in pairs).items() if times > 1), None)
    if twice is not None:
        raise BadRequestError(f"'{twice}' is said more than once", "say it once")


def refused(errors: list[dict[str, Any]], names: Iterable[str] = GetQuery.model_fields) -> BadRequestError:
    """The first thing that is wrong with a request that may have fields of these names, in our words."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body", "int", "constrained-str", "str"))
    if first["type"] == "extra_forbidden":
        return BadRequestError(f"there is no field '{where}'{suggestion(where, list(names))}", f"fields are: {', '.join(names)}; see /docs")
    if len(first["loc"]) > 1 and first["loc"][0] in ("user", "users", "pins", "candidates"):
        return BadRequestError(
            f"{where} is no ID", f"an ID is a whole number, or the text that was ingested, of {MAX_TEXT} characters at most"
        )
    return BadRequestError(f"{where or 'the body'}: {first['msg'][:1].lower()}{first['msg'][1:]}", "see /docs for what may be said")


class OfItself(Protocol):
    """What every request may say of itself."""

    @property
    def request_id(self) -> str | None: ...
    @property
    def surface(self) -> str | None: ...
    @property
    def fingerprint(self) -> str | None: ...
    @property
    def allow_other_fingerprint(self) -> bool: ...


def checked(said: OfItself, timestamp: int, vocabulary: Vocabulary, fingerprint: str) -> Request:
    """What a request says of itself.

    Raises
    ------
    BadRequestError
        There is no such surface.
    OtherFingerprintAskedError
        The client was made for other features.
    """
    if said.surface is not None and said.surface not in vocabulary.surfaces:
        raise BadRequestError(
            f"there is no surface '{said.surface}'{suggestion(said.surface, vocabulary.surfaces)}",
            f"surfaces are: {', '.join(vocabulary.surfaces)}; others are declared in the vocabulary file",
        )
    if said.fingerprint is not None and said.fingerprint != fingerprint and not said.allow_other_fingerprint:
        raise OtherFingerprintAskedError(
            f"the client was made for features with fingerprint '{said.fingerprint}', and '{fingerprint}' is served here",
            "train with what is served, or ask where the other features are served; allow_other_fingerprint serves them all the same",
        )
    return Request(timestamp, said.request_id if said.request_id is not None else uuid.uuid4().hex, said.surface)


def ids(name: str, said: list[int | str]) -> np.ndarray:
    """IDs of a field as int64[n].

    Raises
    ------
    BadRequestError
        A number is none of 64 bits.
    """
    if str in set(map(type, said)):
        return ids_of([str(one) if type(one) is int and INT64_MIN <= one <= INT64_MAX else _text(name, one) for one in said])
    try:
        return np.array(said, np.int64)
    except OverflowError:
        raise _too_far(name, next(one for one in said if isinstance(one, int) and not INT64_MIN <= one <= INT64_MAX)) from None


def _text(name: str, one: int | str) -> str:
    if isinstance(one, int):
        raise _too_far(name, one)
    return one


def _too_far(name: str, one: int) -> BadRequestError:
    return BadRequestError(f"{name}: {one} is no 64-bit ID", f"IDs are whole numbers from {INT64_MIN} to {INT64_MAX}, or texts")
