"""A TOML file that says what a model trained from scratch is made of, and how: tables [model], [training] and [table].

A name that isn't known is refused, never ignored.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from flows.errors import SettingsError
from flows.toml_file import read_toml
from flows.vocabulary import suggestion
from online_model.model.config import ModelConfig
from online_model.table import TableConfig
from online_model.training.config import TrainingConfig

_PARTS: dict[str, type[Any]] = {"model": ModelConfig, "training": TrainingConfig, "table": TableConfig}


def read_model_file(path: Path) -> dict[str, dict[str, Any]]:
    """Settings by part: "model", "training", "table".

    Raises
    ------
    SettingsError
        A name isn't known, or a value makes no model.
    """
    content = read_toml("model file", path)
    found: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for part, values in content.items():
        if part not in _PARTS or not isinstance(values, dict):
            raise SettingsError(
                f"model file {path}: there is no table [{part}]{suggestion(part, list(_PARTS))}; there are {', '.join(_PARTS)}"
            )
        # The width of vectors is the model's `dim`, that of a user embedding is its version's.
        known = [f.name for f in fields(_PARTS[part]) if f.name not in ("dimension", "user_embedding")]
        for name in values:
            if name not in known:
                raise SettingsError(f"model file {path}: [{part}] has no '{name}'{suggestion(name, known)}; it has {', '.join(known)}")
        found[part] = values
    try:
        TableConfig(ModelConfig(**found["model"]).dim, **found["table"])
        TrainingConfig(**found["training"])
    except TypeError as error:
        raise SettingsError(f"model file {path}: a value is of the wrong type ({error})") from error
    return found
