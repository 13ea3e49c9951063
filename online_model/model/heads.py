"""What each head of the model counts for in the loss; without torch, so that whoever only says how to learn need not load it."""

from __future__ import annotations

from collections.abc import Mapping

from flows.errors import SettingsError
from flows.vocabulary import suggestion

HEAD_WEIGHTS: Mapping[str, float] = {"click": 1.0, "long_click": 1.0, "save": 1.0, "hide": 1.0, "revisit": 1.27}
"""w_revisit is 1.27 · w_save."""


def check_weights(heads: tuple[str, ...], weights: Mapping[str, float]) -> None:
    """Refuse weights that are not of these heads.

    Raises
    ------
    SettingsError
        A head has no weight, or there is none of that name.
    """
    for name in weights:
        if name not in HEAD_WEIGHTS:
            raise SettingsError(
                f"model: there is no head '{name}'{suggestion(name, list(HEAD_WEIGHTS))}; there are {', '.join(HEAD_WEIGHTS)}"
            )
    for name in heads:
        if name not in weights:
            raise SettingsError(f"model: head '{name}' has no weight; there must be one for each of {', '.join(heads)}")
