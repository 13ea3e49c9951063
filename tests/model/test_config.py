"""A configuration that makes no model is refused where it is made, in words that name the field."""

from __future__ import annotations

import json

import pytest

from flows.errors import SettingsError
from flows.examples.record import HEADS
from online_model.model.config import Encoder, ModelConfig


def test_it_goes_through_json() -> None:
    of = ModelConfig(encoder=Encoder.GRU, sequence_length=20, revisit_head=False, seed=4)
    assert ModelConfig.from_dict(json.loads(json.dumps(of.to_dict()))) == of
    assert "user_embedding" not in of.to_dict(), "manifests without the input are what they were"
    taking = ModelConfig(user_embedding=16)
    assert ModelConfig.from_dict(json.loads(json.dumps(taking.to_dict()))) == taking
    assert of.heads == HEADS[:4]
    assert ModelConfig().heads == HEADS


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"encoder": "transakt_v1_0"}, "did you mean 'transact_v1_0'"),
        ({"sequence_length": 101}, "at most 100"),
        ({"sequence_length": 0}, "sequence_length must be a whole number of at least 1, not 0"),
        ({"dim": 8.0}, "dim must be a whole number"),
        ({"experts": True}, "experts"),
        ({"user_embedding": -1}, "user_embedding must be a whole number of at least 0"),
        ({"serving_slot": 32}, "0 to 31"),
        ({"expert_dropout": 1.0}, "expert_dropout"),
        ({"window_hours": float("nan")}, "window_hours"),
        ({"cross_layer": 3}, "no setting 'cross_layer' (did you mean 'cross_layers'?)"),
    ],
)
def test_what_makes_no_model_is_refused(values: dict, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        ModelConfig.from_dict(values)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
