"""Examples for the OpenAPI docs: answers as they are, cut short."""

from __future__ import annotations

from typing import Any

_HEAD = {
    "request_id": "4f1c0a7e",
    "fingerprint": "5a0b6f2c9d1e4871",
    "as_of": 1_700_000_000_000,
    "positions": {"actions": [1200, 1187], "revisits": [310, 295]},
}
_COUNTERS = {"revisits_impression_all_7d_count": 3, "revisits_impression_all_7d_pins": 2}
_PIN_COUNTERS = {"revisits_impression_all_7d_count": 5, "revisits_impression_all_7d_users": 4}
_ACTION = {"pin_id": 1234, "action": "save", "surface": "homefeed", "event_time": 1_699_999_000_000, "duration_ms": 1800}
_STATISTICS = {"saves_7d_count": 12, "saves_7d_clicked": 3, "click_rate_7d": 0.25}
_FOUND = {"found": True, "status": "FOUND"}


# Everything that is refused is told in this form.
_REFUSAL = {
    "type": "object",
    "required": ["error", "what_to_do"],
    "properties": {"error": {"type": "string"}, "what_to_do": {"type": "string"}},
    "additionalProperties": False,
}


def _refusal(description: str, error: str, what_to_do: str) -> dict[str, Any]:
    content = {"schema": _REFUSAL, "example": {"error": error, "what_to_do": what_to_do}}
    return {"description": description, "content": {"application/json": content}}


def _responses(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": "Values, in part.", "content": {"application/json": {"example": example}}},
        400: _refusal("It can't be read.", "the path is no UTF-8", "percent-encode the UTF-8 of what is asked for"),
        409: _refusal(
            "The client was made for other features.",
            "the client was made for features with fingerprint '69a7205ab19b72b2', and '5a0b6f2c9d1e4871' is served here",
            "train with what is served, or ask where the other features are served",
        ),
        422: _refusal(
            "What is asked for can't be meant.", "there is no surface 'homefed' (did you mean 'homefeed'?)", "surfaces are: homefeed, …"
        ),
        503: _refusal(
            "The store does not answer.",
            "the store has not answered within 1 s",
            "ask again later; if it goes on, see what the store is busy with",
        ),
    }


def _of_post(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """The same of what has a body."""
    return _responses(example) | {
        400: _refusal("The body is no JSON.", "the body is no JSON: unexpected end of data", 'send an object such as {"users": [42]}'),
        408: _refusal("The body has not come in time.", "the body has not come within 10 s", "send it at once"),
        413: _refusal("The body is too large.", "the body is larger than 4 MiB", "send several requests"),
    }


USER = _responses({"user_id": 42, **_FOUND, **_HEAD, "sequence": [_ACTION], "counters": _COUNTERS})
PIN = _responses({"pin_id": 1234, **_FOUND, **_HEAD, "counters": _PIN_COUNTERS})
TOPIC = _responses({"topic": "Home Decor", **_FOUND, **_HEAD, "statistics": _STATISTICS})
BATCH = _of_post(
    {
        **_HEAD,
        "users": {
            "user_id": [42],
            "found": [True],
            "status": ["FOUND"],
            "sequence": {"offsets": [0, 1], **{name: [value] for name, value in _ACTION.items()}},
            "counters": {name: [value] for name, value in _COUNTERS.items()},
        },
        "pins": {
            "pin_id": [1234, 77],
            "found": [True, False],
            "status": ["FOUND", "NOT_FOUND"],
            "counters": {name: [value, 0] for name, value in _PIN_COUNTERS.items()},
        },
    }
)
# Null where the request names its candidates; OpenAPI's examples leave nulls out.
_EMBEDDING = {"version": 1, "table": 14, "index": 1, "as_of": 1_699_990_000_000, "positions": [1100, 1090]}
RANK = _of_post(
    {
        **_HEAD,
        "user_id": 42,
        **_FOUND,
        "arm": "served",
        "base": 3,
        "delta": 117,
        "candidates": 3,
        "candidates_from": "embedding",
        "embedding": _EMBEDDING,
        "pins": {
            "pin_id": [77, 1234],
            "found": [True, True],
            "status": ["FOUND", "FOUND"],
            "slot": [0, 1],
            "score": [0.82, 0.31],
            "propensity": [1.0, 1.0],
            "explored": [False, False],
            "probabilities": {
                "click": [0.31, 0.12],
                "long_click": [0.12, 0.05],
                "save": [0.2, 0.08],
                "hide": [0.001, 0.004],
                "revisit": [0.05, 0.02],
            },
        },
    }
)
RANK[409]["description"] += " Or the model that is published was trained with others than are served."
RANK[503]["description"] += " Or no model is served, or it does not answer."
RETRIEVE = _of_post(
    {
        **_HEAD,
        "user_id": 42,
        **_FOUND,
        "embedding": _EMBEDDING,
        "source": "embedding",
        "left_out": 1,
        "pins": {"pin_id": [77, 905, 12], "score": [0.71, 0.69, 0.66]},
    }
)
RETRIEVE[503]["description"] += " Or no user embeddings are served."
RETRIEVE_REQUESTS = {"three pins": {"value": {"user": 42, "k": 3, "request_id": "4f1c0a7e"}}}
RANK_REQUESTS = {
    "the best two of three": {
        "value": {"user": 42, "candidates": [1234, 77, "my-pin"], "surface": "homefeed", "k": 2, "request_id": "4f1c0a7e"}
    },
    "the server's own candidates": {"value": {"user": 42, "surface": "homefeed"}},
}
BATCH_REQUESTS = {
    "a user and candidates": {"value": {"users": [42], "pins": [1234, 77, "my-pin"], "surface": "homefeed", "request_id": "4f1c0a7e"}},
    "topics at a time": {"value": {"topics": ["Home Decor"], "as_of": 1_700_000_000_000}},
}
READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "Not ready, and why.",
        "content": {
            "application/json": {
                "example": {
                    "ready": False,
                    "reasons": ["the flows have accepted no event yet; `tidemark run` applies what the log holds"],
                    "fingerprint": "5a0b6f2c9d1e4871",
                    "store": "task state",
                    "served_log": {"ok": True, "lost_rows": 0},
                }
            }
        },
    }
}
