"""The newest 100 engagements of each user, in Pathway."""

import pathway as pw  # type: ignore[import-not-found]

LENGTH = 100


class Action(pw.Schema):
    """The fields of an event that are needed."""

    event_id: int
    user_id: int
    pin_id: int
    action: str
    surface: str
    event_time: int
    duration_ms: int


@pw.udf(deterministic=True)
def newest(actions: list[tuple]) -> pw.Json:
    """The newest first; a copy of an event is equal to it, so it lies beside it."""
    distinct = list(dict.fromkeys(reversed(actions)))
    return pw.Json([[pin, action, surface, time, duration] for time, _, pin, action, surface, duration in distinct[:LENGTH]])


def build(source, out, state, as_of):
    """The pipeline; what is returned runs it."""
    events = pw.io.jsonlines.read(source, schema=Action, mode="static", name="actions")
    this = pw.this
    engaged = events.filter(this.action != "impression")
    entries = engaged.select(
        this.user_id,
        entry=pw.make_tuple(this.event_time, this.event_id, this.pin_id, this.action, this.surface, this.duration_ms),
    )
    grouped = entries.groupby(this.user_id).reduce(this.user_id, actions=pw.reducers.sorted_tuple(this.entry))
    pw.io.jsonlines.write(grouped.select(this.user_id, sequence=newest(this.actions)), f"{out}/sequences.jsonl")
    kept = pw.persistence.Config(pw.persistence.Backend.filesystem(state))
    return lambda: pw.run(monitoring_level=pw.MonitoringLevel.NONE, persistence_config=kept)
