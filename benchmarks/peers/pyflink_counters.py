"""Revisits of pins in 7, 30 and 90 days, in PyFlink: a temporal join with the latest save in SQL, so that no row passes through Python."""

from pyflink.common import Configuration  # type: ignore[import-not-found]
from pyflink.table import EnvironmentSettings, TableEnvironment  # type: ignore[import-not-found]

HOUR, DAY = 3_600_000, 86_400_000
OPTIONS = {
    "parallelism.default": "1",
    "state.backend.type": "hashmap",
    "execution.checkpointing.interval": "10 s",
    "execution.checkpointing.checkpoints-after-tasks-finish": "false",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "1 s",
    "table.exec.mini-batch.size": "5000",
}


def build(source, out, state, as_of):
    """The pipeline; what is returned runs it."""
    options = Configuration()
    for name, value in (OPTIONS | {"execution.checkpointing.dir": f"file://{state}"}).items():
        options.set_string(name, value)
    tables = TableEnvironment.create(EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(options).build())
    # A save of the very moment is not before a revisit, so revisits stand a millisecond earlier.
    tables.execute_sql(f"""
        CREATE TABLE actions (
            event_id BIGINT, user_id BIGINT, pin_id BIGINT, action STRING, surface STRING, event_time BIGINT,
            arrived AS PROCTIME(),
            at_time AS TO_TIMESTAMP_LTZ(event_time - CASE WHEN action = 'save' THEN 0 ELSE 1 END, 3),
            WATERMARK FOR at_time AS at_time - INTERVAL '1' HOUR
        ) WITH ('connector' = 'filesystem', 'path' = 'file://{source}', 'format' = 'json')
    """)
    tables.execute_sql("""
        CREATE VIEW distinct_actions AS
        SELECT * FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id, event_id ORDER BY arrived ASC) AS copy FROM actions
            WHERE action = 'save' OR (surface = 'own_profile' AND action IN ('impression', 'grid_click'))
        ) WHERE copy = 1
    """)
    tables.execute_sql("""
        CREATE VIEW saves AS
        SELECT user_id, pin_id, surface, event_time, at_time FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id, pin_id ORDER BY at_time DESC) AS age
            FROM distinct_actions WHERE action = 'save'
        ) WHERE age = 1
    """)
    tables.execute_sql(f"""
        CREATE VIEW credited AS
        SELECT r.pin_id, r.user_id, r.action = 'grid_click' AS click, s.surface = 'related_pins' AS rp,
               (r.event_time / {HOUR} + 1) * {HOUR} AS counted_until
        FROM distinct_actions AS r JOIN saves FOR SYSTEM_TIME AS OF r.at_time AS s ON r.user_id = s.user_id AND r.pin_id = s.pin_id
        WHERE r.action <> 'save' AND r.event_time < s.event_time + {7 * DAY}
    """)
    names, columns = [], []
    for scope, in_scope in (("all", "TRUE"), ("rp", "rp")):
        for kind, of_kind in (("impression", "NOT click"), ("click", "click")):
            for days in (7, 30, 90):
                held = f"{in_scope} AND {of_kind} AND counted_until > {as_of - days * DAY}"
                columns += [f"COUNT(*) FILTER (WHERE {held})", f"COUNT(DISTINCT user_id) FILTER (WHERE {held})"]
                names += [f"revisits_{kind}_{scope}_{days}d_{measure}" for measure in ("count", "users")]
    declared = ", ".join(f"{name} BIGINT" for name in names)
    tables.execute_sql(f"CREATE TABLE counters (pin_id BIGINT, {declared}) WITH ('connector' = 'print')")
    statement = f"INSERT INTO counters SELECT pin_id, {', '.join(columns)} FROM credited GROUP BY pin_id"
    return lambda: tables.execute_sql(statement).wait()
