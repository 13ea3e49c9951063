"""A drill: a copy of a data directory is damaged in each way that can be thought of, found and put right with the ordinary commands, and compared.

`site` and `model_site` make what is damaged, `classes` lists the ways (`state`, `logs`, `checkpoints`, `poison`, `models`), `operator` types the
commands, `outcome` says what must be equal, `runner` does it class by class (`interrupted`: of a command that is killed; `model_mending`: what is
typed for models).
"""
