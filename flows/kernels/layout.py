"""How the working set of the actions kernel lies in memory: columns, scalars, and the marks that a record carries into it."""

from __future__ import annotations

import numpy as np

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CREDIT_MS = 7 * DAY_MS
NEVER = np.int64(2**62)  # as a first time: there is none. As a watermark, negated: nothing was accepted.

ACCEPTED, BAD, DUPLICATE, FUTURE = 0, 1, 2, 3

# What the kernel must know of an action and its surface, as bits of a record's role.
ROLE_SAVE, ROLE_REVISIT, ROLE_CLICK, ROLE_RELATED_PINS = 1, 2, 4, 8

# Scalars of the working set.
W, ARRIVAL, N_SEEN, N_BUCKETS, FREE_BUCKET, FREE_SAVE, FREE_NODE, N_SAVES, N_NODES = 0, 1, 2, 3, 4, 5, 6, 7, 8
SCALARS = 9

# Columns of `buckets`, `saves`, `nodes`. A free entry links to the next free one through its OLDER column.
B_USER, B_PIN, B_SAVE, B_NODE = 0, 1, 2, 3
BUCKET_OLDER = B_SAVE
S_TIME, S_ID, S_SURFACE, S_TOPIC, S_BUCKET, S_OLDER, S_NEWER, S_IMPRESSION, S_CLICK, S_RELATED = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
N_TIME, N_CLICK, N_SAVE, N_BUCKET, N_OLDER, N_NEWER = 0, 1, 2, 3, 4, 5

# A queue is int64[capacity + 1, width]: row 0 is (head, length), then a ring.
CHANGE_COLUMNS = ("pin_id", "user_id", "time", "kind", "weight", "record")
LABEL_COLUMNS = ("user_id", "pin_id", "save_time", "event_id", "surface", "topic", "first_impression", "first_click")
TILE_COLUMNS = ("topic", "kind", "hour", "weight")
MOVE_COLUMNS = ("topic", "save_time", "click_time", "weight", "record")
