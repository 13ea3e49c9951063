"""Where this Feast repository lies, and the settings that its YAML file means.

`feature_store.yaml` can expand `${VARIABLE}` but has no default for an unset one, so it names no data directory at all and what reads it
asks here. Precedence is that of `flows.settings`; with nothing set, the data directory is `../data`, seen from the YAML file.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from feature_repo.errors import plain_in_feast_commands
from flows.settings import Settings, load_settings

REPOSITORY = Path(__file__).resolve().parent
PROJECT = "tidemark"

# `feast apply` changes into the repository. A relative path from the environment means the directory of the user's shell, which Python
# still is in when Feast reads the YAML file, and with it imports this module.
_LAUNCHED_IN = Path.cwd()


def repository_settings() -> Settings:
    """The settings that hold where no caller hands any over: those of the `feast` command.

    The config file is TIDEMARK_CONFIG, else ``tidemark.toml`` in the directory of the shell or beside the repository.
    """
    with plain_in_feast_commands():
        return _settings()


def _settings() -> Settings:
    root = REPOSITORY.parent
    named = os.environ.get("TIDEMARK_CONFIG")
    beside = [directory / "tidemark.toml" for directory in (_LAUNCHED_IN, root)]
    config = _LAUNCHED_IN / named if named else next((path for path in beside if path.exists()), None)
    settings = load_settings(config=config)
    nobody_named_data = settings.data == Settings.data and not os.environ.get("TIDEMARK_DATA")
    return dataclasses.replace(
        settings,
        data=((root if nobody_named_data else _LAUNCHED_IN) / settings.data).resolve(),
        vocabulary=settings.vocabulary and _LAUNCHED_IN / settings.vocabulary,
    )
