"""The archive of the logs: Parquet segments that outlive a broker's retention, and the log that joins them with what is still live.

`<archive>/<log>/<partition>/<from>-<to>-<checksum>.parquet` holds every record at the offsets [from, to). The name is all that says so: one rename
publishes records, position and checksum together, and there is no second store that could disagree.
"""
