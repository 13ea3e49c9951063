"""What is left to whoever reads the counts that quix_counters.py sends out: summing them over the windows that end now."""

from collections import Counter

HOUR, DAY = 3_600_000, 86_400_000


def counters(tiles: dict[tuple[int, bool, bool, int], int], as_of: int) -> dict[str, int]:
    """A pin's counters, of its counts by (user, click, from related pins, hour)."""
    counts: Counter[str] = Counter()
    users: dict[str, set[int]] = {}
    for (user, click, related, hour), number in tiles.items():
        for days in (7, 30, 90):
            if number and (hour + 1) * HOUR > as_of - days * DAY:
                for scope in ("all", "rp") if related else ("all",):
                    name = f"revisits_{'click' if click else 'impression'}_{scope}_{days}d"
                    counts[f"{name}_count"] += number
                    users.setdefault(f"{name}_users", set()).add(user)
    return {**counts, **{name: len(of) for name, of in users.items()}}
