"""The newest 100 engagements of each user, in Quix Streams: a list in the state of the user's key, sent on whenever it has changed."""

import bisect

from quixstreams import Application, State  # type: ignore[import-not-found]

LENGTH = 100


def keep(event: dict, state: State) -> dict | None:
    """The user's sequence, if the event has changed it."""
    sequence = state.get("sequence", [])
    entry = [event[name] for name in ("event_time", "event_id", "pin_id", "action", "surface", "duration_ms")]
    if entry in sequence:
        return None
    bisect.insort(sequence, entry)
    del sequence[:-LENGTH]
    state.set("sequence", sequence)
    return {"sequence": sequence[::-1]}


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
    engaged = actions[actions["action"] != "impression"]
    changed = engaged.apply(keep, stateful=True).filter(lambda row: row is not None)
    changed.to_topic(app.topic(out, value_serializer="json"))
    return lambda: app.run(timeout=5, collect=False)
