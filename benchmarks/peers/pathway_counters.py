"""Revisits of pins in 7, 30 and 90 days, in Pathway."""

import pathway as pw  # type: ignore[import-not-found]

HOUR, DAY = 3_600_000, 86_400_000
WINDOWS = (7, 30, 90)


class Action(pw.Schema):
    """The fields of an event that are needed."""

    event_id: int
    user_id: int
    pin_id: int
    action: str
    surface: str
    event_time: int


@pw.udf(deterministic=True)
def counters(revisits: list[tuple], as_of: int) -> pw.Json:
    """A pin's counters, of its credited revisits (user, click, time, surface of the save)."""
    out = {}
    for scope in ("all", "rp"):
        for kind in ("impression", "click"):
            for days in WINDOWS:
                users = [
                    user
                    for user, click, time, surface in revisits
                    if click == (kind == "click")
                    and (scope == "all" or surface == "related_pins")
                    and (time // HOUR + 1) * HOUR > as_of - days * DAY
                ]
                name = f"revisits_{kind}_{scope}_{days}d"
                out[f"{name}_count"], out[f"{name}_users"] = len(users), len(set(users))
    return pw.Json(out)


def build(source, out, state, as_of):
    """The pipeline; what is returned runs it."""
    this = pw.this
    events = pw.io.jsonlines.read(source, schema=Action, mode="static", name="actions")
    is_save = this.action == "save"
    is_revisit = (this.surface == "own_profile") & ((this.action == "impression") | (this.action == "grid_click"))
    wanted = events.filter(is_save | is_revisit)
    # Copies of an event are one.
    distinct = wanted.groupby(this.user_id, this.event_id).reduce(
        this.user_id,
        this.event_id,
        pin_id=pw.reducers.any(this.pin_id),
        action=pw.reducers.any(this.action),
        surface=pw.reducers.any(this.surface),
        event_time=pw.reducers.any(this.event_time),
    )
    saves, revisits = distinct.filter(is_save), distinct.filter(~is_save)
    # The latest save before the revisit; one of the same moment is not before it.
    credited = revisits.asof_join(
        saves.with_columns(after=this.event_time + 1),
        pw.left.event_time,
        pw.right.after,
        pw.left.user_id == pw.right.user_id,
        pw.left.pin_id == pw.right.pin_id,
        how=pw.JoinMode.LEFT,
    ).select(
        pw.left.pin_id,
        pw.left.user_id,
        pw.left.event_time,
        click=pw.left.action == "grid_click",
        save_time=pw.right.event_time,
        save_surface=pw.right.surface,
    )
    credited = credited.filter(this.save_time.is_not_none()).filter(this.event_time < pw.unwrap(this.save_time) + 7 * DAY)
    entries = credited.select(this.pin_id, entry=pw.make_tuple(this.user_id, this.click, this.event_time, this.save_surface))
    of_pin = entries.groupby(this.pin_id).reduce(this.pin_id, revisits=pw.reducers.tuple(this.entry))
    pw.io.jsonlines.write(of_pin.select(this.pin_id, counters=counters(this.revisits, as_of)), f"{out}/counters.jsonl")
    kept = pw.persistence.Config(pw.persistence.Backend.filesystem(state))
    return lambda: pw.run(monitoring_level=pw.MonitoringLevel.NONE, persistence_config=kept)
