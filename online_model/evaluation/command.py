"""`tidemark evaluate`: how good are scores, and which are better? Each command lies in a module of its own."""

from __future__ import annotations

import click

from flows.lazy_group import LazyGroup

COMMANDS = {
    "scores": ("online_model.evaluation.scores_command:scores", "Metrics of scored rows, and whether another scoring is better."),
    "served": ("online_model.evaluation.served_command:served", "Metrics of what was ranked for users, by base."),
    "sync-interval": ("online_model.studies.command:sync_interval", "Study: how often served ID rows are synced."),
    "retrain": ("online_model.studies.command:retrain", "Study: how often the model is retrained, with realtime features and without."),
    "encoders": ("online_model.studies.command:encoders", "Study: encoders of the action sequence."),
    "revisit": ("online_model.studies.command:revisit", "Study: the revisit head and the revisit features."),
    "delayed-labels": ("online_model.studies.command:delayed_labels", "Study: ways of learning from labels that come late."),
    "closed-loop": ("online_model.studies.command:closed_loop", "Study: a learner where users react to what is ranked."),
    "user-embedding": ("online_model.studies.command:user_embedding", "Study: a daily embedding of the user as an input."),
}


@click.group(cls=LazyGroup, table=COMMANDS, epilog="Example: tidemark evaluate scores scored.parquet --against before.parquet")
def evaluate() -> None:
    """How good scores are: ranking, classification and calibration by head, by time, by topic and by age of users.

    Beside each difference stands its interval, from a bootstrap that draws users, and the least difference that the data could have shown.
    What each metric is exactly: docs/evaluation.md.
    """
