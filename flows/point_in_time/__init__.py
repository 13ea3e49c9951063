"""Features of entities as of moments of the past, each from its own prefix of the logs: training rows, and proofs of what was served."""

from flows.point_in_time.asked import Asked, PinsAt, TopicsAt, UsersAt
from flows.point_in_time.engine import PointInTime

__all__ = ["Asked", "PinsAt", "PointInTime", "TopicsAt", "UsersAt"]
