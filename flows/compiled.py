"""The decorator of compiled loops."""

from __future__ import annotations

import numba

from flows.compile_cache import CACHE

setattr(numba.config, "CACHE_DIR", str(CACHE))  # noqa: B010 - numba declares its settings at run time

compiled = numba.njit(cache=True, nogil=True)

# For functions that make no array. Otherwise numba counts references to every array that one function hands to another, by atomic operations:
# a fifth of the time of the judging, which hands over twelve for each record.
compiled_in_place = numba.njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
