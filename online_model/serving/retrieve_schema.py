"""What a request for retrieval may say. Whatever is not declared here is refused, never ignored."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictInt, StrictStr

from online_model.serving.rank_schema import MOST_CANDIDATES
from online_model.serving.retrieving import Sought
from online_model.serving.schema import ALLOWING, FINGERPRINT, REQUEST_ID, SURFACE, Id, from_json, ids

DEFAULT_K = 100

_EXAMPLE: dict[str, JsonValue] = {"user": 42, "k": 3, "request_id": "4f1c0a7e"}


class RetrieveRequest(BaseModel):
    """A user for whom pins are wanted; an ID is a whole number, or the text that was ingested."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    user: Id = Field(description="For whom.")
    k: StrictInt = Field(default=DEFAULT_K, ge=1, le=MOST_CANDIDATES, description="How many are wanted.")
    with_known: bool = Field(
        default=False, strict=True, description="Pins of the user's action sequence too, which are left out by default."
    )
    surface: StrictStr | None = SURFACE
    request_id: StrictStr | None = REQUEST_ID
    fingerprint: StrictStr | None = FINGERPRINT
    allow_other_fingerprint: bool = Field(default=False, strict=True, description=ALLOWING)


def parsed_retrieve(body: bytes) -> tuple[RetrieveRequest, Sought]:
    """A request from its JSON.

    Raises
    ------
    NotJsonError, BadRequestError
    """
    said = from_json(RetrieveRequest, body, '{"user": 42, "k": 100}')
    return said, Sought(int(ids("user", [said.user])[0]), said.k, said.with_known)
