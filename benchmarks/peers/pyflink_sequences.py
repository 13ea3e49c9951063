"""The newest 100 engagements of each user, in PyFlink: SQL's Top-N over deduplicated rows, so that no row passes through Python."""

from pyflink.common import Configuration  # type: ignore[import-not-found]
from pyflink.table import EnvironmentSettings, TableEnvironment  # type: ignore[import-not-found]

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
    tables.execute_sql(f"""
        CREATE TABLE actions (
            event_id BIGINT, user_id BIGINT, pin_id BIGINT, action STRING, surface STRING, event_time BIGINT, duration_ms BIGINT,
            arrived AS PROCTIME()
        ) WITH ('connector' = 'filesystem', 'path' = 'file://{source}', 'format' = 'json')
    """)
    tables.execute_sql("""
        CREATE TABLE sequences (
            user_id BIGINT, event_time BIGINT, event_id BIGINT, pin_id BIGINT, action STRING, surface STRING, duration_ms BIGINT
        ) WITH ('connector' = 'print')
    """)
    statement = """
        INSERT INTO sequences
        SELECT user_id, event_time, event_id, pin_id, action, surface, duration_ms FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY event_time DESC, event_id DESC) AS place FROM (
                SELECT *, ROW_NUMBER() OVER (PARTITION BY user_id, event_id ORDER BY arrived ASC) AS copy
                FROM actions WHERE action <> 'impression'
            ) WHERE copy = 1
        ) WHERE place <= 100
    """
    return lambda: tables.execute_sql(statement).wait()
