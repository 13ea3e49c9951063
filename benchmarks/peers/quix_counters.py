"""Revisits of pins in 7, 30 and 90 days, in Quix Streams.

By user, state of the (user, pin) pair credits revisits to saves; by pin, state counts by user, kind and hour. A changed count goes out, and
whoever reads sums them over a window (quix_reading.py): without timers, a row of sums would only be right just after a revisit.
"""

from quixstreams import Application, State  # type: ignore[import-not-found]

HOUR, DAY = 3_600_000, 86_400_000


def wanted(event: dict) -> bool:
    """Saves and revisits."""
    return event["action"] == "save" or (event["surface"] == "own_profile" and event["action"] in ("impression", "grid_click"))


def credit(event: dict, state: State) -> list[dict]:
    """What the event changes: a revisit's own credit, or those that a save takes over."""
    key, user, time = f"pin-{event['pin_id']}", event["user_id"], event["event_time"]
    pair = state.get(key, {"seen": {}, "saves": [], "revisits": []})
    if str(event["event_id"]) in pair["seen"]:
        return []
    oldest = time - 8 * DAY
    pair = {
        "seen": {i: t for i, t in pair["seen"].items() if t > oldest} | {str(event["event_id"]): time},
        "saves": [save for save in pair["saves"] if save[0] > oldest],
        "revisits": [revisit for revisit in pair["revisits"] if revisit[0] > oldest],
    }
    if event["action"] == "save":
        pair["saves"] = sorted([*pair["saves"], [time, event["event_id"], event["surface"] == "related_pins"]])
    else:
        pair["revisits"].append([time, event["action"] == "grid_click", None])
    changes = []
    for revisit in pair["revisits"]:
        at, click, before = revisit
        held = [save for save in pair["saves"] if save[0] < at < save[0] + 7 * DAY]
        now = held[-1] if held else None
        for save, weight in ((before, -1), (now, 1)):
            if now != before and save is not None:
                changes.append({"pin_id": event["pin_id"], "tile": [user, click, save[2], at // HOUR], "weight": weight})
        revisit[2] = now
    state.set(key, pair)
    return changes


def count(change: dict, state: State) -> dict:
    """A pin's count that has changed."""
    tile = change["tile"]
    key = "-".join(map(str, tile))
    total = state.get(key, 0) + change["weight"]
    state.set(key, total)
    return {"pin_id": change["pin_id"], "tile": tile, "count": total}


def build(servers, topic, out, state, as_of, on_message):
    """The pipeline; what is returned runs it."""
    app = Application(
        broker_address=servers,
        consumer_group=out,
        auto_offset_reset="earliest",
        state_dir=state,
        consumer_poll_timeout=0.1,
        on_message_processed=on_message,
        loglevel="WARNING",
    )
    actions = app.dataframe(app.topic(topic, key_deserializer="str", value_deserializer="json"))
    changes = actions.filter(wanted).apply(credit, stateful=True, expand=True)
    counted = changes.group_by(lambda change: str(change["pin_id"]), name="pin", key_serializer="str", key_deserializer="str")
    counted.apply(count, stateful=True).to_topic(app.topic(out, value_serializer="json"))
    return lambda: app.run(timeout=5, collect=False)
