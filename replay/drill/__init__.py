"""A drill: a copy of a data directory is damaged in each way that can be thought of, found and put right with the ordinary commands, and compared.

`site` makes what is damaged, `classes` lists the ways (`state`, `logs`, `places`, `poison`), `operator` types the commands, `outcome` says
what must be equal, `drill` does it class by class.
"""
