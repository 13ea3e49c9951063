"""Published figures of save-to-revisit behaviour, and how the simulator reads them.

Percent of saves throughout, unless said otherwise. The figures come from Pinterest's paper on revisitation.

**How they fit together.** The per-day figures are shares of saves with *any* click on that day, so they add up (11.6 %) to more than the
9 % of saves with a click at all: the surplus is repeat clicks. Day 0 is the same thing as ``label_1dRevGrid``, 4.7 %. Table 3 is read as:
among saves with a click within 7 days, the share whose *first* click falls on days 3 to 6. That fixes its level: topic by topic, first
clicks on days 3 to 6 are (share x 9 %) of saves, 0.95 % to 1.69 %; first clicks on days 1 and 2 are what remains of 9 % - 4.7 %. Both lie
below the per-day figures (2.9 % on days 3 to 6, 4.0 % on days 1 and 2), and repeat clicks of saves that were clicked on an earlier day
fill the difference. Within days 1-2 and within days 3-6, first clicks are split in proportion to the per-day figures.
So read, all the figures hold at once: none has to give way. (Had one had to, the label rates would have been kept.)
The other possible reading, Table 3 as a share of clicks instead of saves clicked, can't hold: 2.9 of 11.6 is 25 %, above every row.

Days 2 and 4 are not published; they are the geometric means of their neighbours. "About 0.5 % after day 5" is taken for days 5 and 6.
Topics without a row in Table 3, and pins without a topic, take the plain mean of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

TOPIC_DAYS_3_6_SHARE: Mapping[str, float] = MappingProxyType(
    {
        "Event Planning": 18.81,
        "Health": 18.36,
        "Home Decor": 17.80,
        "DIY and Crafts": 17.33,
        "Art": 15.72,
        "Architecture": 14.95,
        "Vehicles": 13.34,
        "Electronics": 10.79,
        "Finance": 10.56,
    }
)


@dataclass(frozen=True)
class Published:
    """The figures, in percent.

    Attributes
    ----------
    label_1dRevImpre, label_1dRevGrid, label_7dRevGrid : float
        Share of saves with the label.
    click_revisits_by_day : mapping of int to float
        Day after the save (floor of the age in days) to the share of saves with any click revisit on that day.
    topic_days_3_6_share : mapping of str to float
        Topic to the share of first clicks that fall on days 3 to 6, among the saves with ``label_7dRevGrid``.
    """

    label_1dRevImpre: float = 25.8
    label_1dRevGrid: float = 4.7
    label_7dRevGrid: float = 9.0
    click_revisits_by_day: Mapping[int, float] = field(
        default_factory=lambda: MappingProxyType({0: 4.70, 1: 2.35, 3: 1.17, 5: 0.5, 6: 0.5})
    )
    topic_days_3_6_share: Mapping[str, float] = field(default_factory=lambda: TOPIC_DAYS_3_6_SHARE)


PUBLISHED = Published()

_DAYS = PUBLISHED.click_revisits_by_day
CLICKS_BY_DAY: tuple[float, ...] = (
    _DAYS[0],
    _DAYS[1],
    (_DAYS[1] * _DAYS[3]) ** 0.5,
    _DAYS[3],
    (_DAYS[3] * _DAYS[5]) ** 0.5,
    _DAYS[5],
    _DAYS[6],
)
"""What the simulator plans for days 0 to 6: published where it is, interpolated where not."""

MEAN_DAYS_3_6_SHARE: float = sum(TOPIC_DAYS_3_6_SHARE.values()) / len(TOPIC_DAYS_3_6_SHARE)


def first_click_by_day(topic: str | None) -> tuple[float, ...]:
    """Percent of a topic's saves whose first click falls on day 0, …, 6; adds up to ``label_7dRevGrid``.

    Parameters
    ----------
    topic : str or None
        A topic; one without a row in Table 3 (and None) takes the mean of the rows.
    """
    late = PUBLISHED.label_7dRevGrid * TOPIC_DAYS_3_6_SHARE.get(topic or "", MEAN_DAYS_3_6_SHARE) / 100
    early = PUBLISHED.label_7dRevGrid - PUBLISHED.label_1dRevGrid - late
    days_1_2, days_3_6 = CLICKS_BY_DAY[1:3], CLICKS_BY_DAY[3:7]
    return (
        PUBLISHED.label_1dRevGrid,
        *(early * d / sum(days_1_2) for d in days_1_2),
        *(late * d / sum(days_3_6) for d in days_3_6),
    )


def repeat_click_by_day(topic: str | None) -> tuple[float, ...]:
    """Percent of a topic's saves that were clicked on an earlier day and are clicked again on day 0, …, 6 (day 0: none)."""
    return tuple(total - first for total, first in zip(CLICKS_BY_DAY, first_click_by_day(topic), strict=True))
