"""The Feast repository: entities, views, services, and an online store over task state.

Feast is the contract that others read by; the values are those of `flows` and are written by `flows` alone.
"""

from feature_repo.lean_feast import import_feast

# Here, because whatever module of this package is imported first, Python runs this file before it.
import_feast()
