"""Sequences of requests as rectangles, and the logarithms of small counters: loops that numpy would make many passes of."""

from __future__ import annotations

import numpy as np

from flows.compiled import compiled_in_place


@compiled_in_place
def padded(offsets, used, time, pins, times, actions, surfaces, hour_ms, pin, action, surface, age, mask):  # type: ignore[no-untyped-def]
    """The newest actions of c requests; see `online_model.model.columns.Features`.

    Parameters
    ----------
    offsets : int64[requests + 1]
    used, time : int64[c]
        Which requests, and when each was, ms.
    pins, times, actions, surfaces : int64[s], int64[s], uint8[s], uint8[s]
        Of request i, newest first, from offsets[i] on.
    hour_ms : float
    pin, action, surface, age, mask : int64[c, l], int64[c, l], int64[c, l], float32[c, l], bool[c, l]
        Filled in, 0 behind the last action.
    """
    for i in range(used.shape[0]):
        # Unsigned, or it would be asked of each place whether it counts from the end.
        begin = np.uintp(offsets[used[i]])
        n = min(offsets[used[i] + 1] - offsets[used[i]], pin.shape[1])
        for k in range(np.uintp(n)):
            j = begin + k
            pin[i, k] = pins[j]
            action[i, k] = np.int64(actions[j]) + 1
            surface[i, k] = np.int64(surfaces[j]) + 1
            age[i, k] = np.float32(max(time[i] - times[j], 0) / hour_ms)
            mask[i, k] = True
        for k in range(n, pin.shape[1]):
            pin[i, k] = 0
            action[i, k] = 0
            surface[i, k] = 0
            age[i, k] = np.float32(0)
            mask[i, k] = False


@compiled_in_place
def logs_of_small(logs, counters, out):  # type: ignore[no-untyped-def]
    """Fill in the logarithms of counters that have an entry in a table.

    Parameters
    ----------
    logs : float32[k]
    counters : int64[n]
    out : float32[n]

    Returns
    -------
    int
        How many have one.
    """
    found = 0
    for i in range(counters.shape[0]):
        counter = counters[i]
        if 0 <= counter < logs.shape[0]:
            out[i] = logs[counter]
            found += 1
    return found
