"""`tidemark models`: which models there are, which one is served to whom, and what differs between them.

Commands find, check and change through the registry alone; what they print is what it says.
"""

from __future__ import annotations

import click

from flows.lazy_group import LazyGroup

_LOOKING, _CHANGING = "online_model.registry.commands.looking", "online_model.registry.commands.changing"
COMMANDS = {
    "list": (f"{_LOOKING}:list_", "All bases, and what each is at present."),
    "show": (f"{_LOOKING}:show", "A base, read and checked whole; without a number the one that is served."),
    "diff": (f"{_LOOKING}:diff", "What two bases say differently: configuration, metrics, weights, rows."),
    "publish": (f"{_CHANGING}:publish", "Serve a base, or take one in from a directory and serve it."),
    "rollback": (f"{_CHANGING}:rollback", "Serve what was served before."),
    "canary": (f"{_CHANGING}:canary", "Give a share of the users another base, for a while or for long."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: tidemark models list")
def models() -> None:
    """The models: numbered bases that never change, and which of them is served to whom.

    A base lies in models/bases/ of the data directory; models/current.json says which one is served, and from which delta on. Both change whole or
    not at all: whatever is interrupted, what was served before stays.
    """
