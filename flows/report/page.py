"""The page: head, tiles, sections, terms, in one file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from flows.report import sections
from flows.report.document import document, write_document
from flows.report.markup import section, terms
from flows.report.values import Report, percent
from flows.report.words import moment, number, share, span

FOOTER = (
    "Records, late records and dead letters are those of all that is committed; saves, labels, clicks and events by action are as of "
    "the time above."
)


def write(report: Report, out: Path, compare: bool) -> None:
    """See `flows.report.write_html`."""
    write_document(render(report, compare), out)


def render(report: Report, compare: bool) -> str:
    """The whole document."""
    return document(
        "Tidemark report", about(report), tiles(report), [*parts(report, compare), terms_part(meanings(report, compare))], FOOTER
    )


def parts(report: Report, compare: bool) -> list[str]:
    """Its sections, without what terms mean."""
    return [
        sections.labels(report, compare),
        sections.decay(report, compare),
        sections.topics(report, compare),
        sections.events(report),
        sections.late(report),
        sections.dead(report),
    ]


def terms_part(meant: list[tuple[str, str]]) -> str:
    """The last section: terms and what each means."""
    return section("terms", "What each term means", "docs/semantics.md and docs/report.md say it exactly.", terms(meant), shape="full")


def about(report: Report) -> str:
    """Under the title."""
    if report.as_of is None:
        return "Nothing has been accepted yet: run `tidemark ingest`, then `tidemark run`.".replace("`", "")
    return f"As of {moment(report.as_of)}; {report.partitions} partitions, allowed lateness {span(report.allowed_lateness_ms)}."


def tiles(report: Report) -> list[tuple[str, str, str]]:
    """Name, figure and note of each tile."""
    counts = {name: report.counts.get(name, 0) for name in ("records", "accepted", "duplicate", "late")}
    of_records = {name: share(percent(n, counts["records"])) for name, n in counts.items()}
    found = [
        ("Records", number(counts["records"]), "read from the log"),
        ("Accepted", number(counts["accepted"]), f"{of_records['accepted']} of records"),
        ("Late", number(counts["late"]), f"{share(percent(counts['late'], counts['accepted']))} of accepted"),
        ("Duplicates", number(counts["duplicate"]), f"{of_records['duplicate']} of records"),
        ("Dead letters", number(report.dead), f"{share(percent(report.dead, counts['records']))} of records"),
        ("Saves", number(report.saves), f"{number(report.matured)} matured"),
    ]
    if report.throughput is not None:
        run = report.throughput
        workers = "one worker" if run.workers == 1 else f"{number(run.workers)} workers"
        found.append(("Events a second", number(round(run.per_second)), f"with {workers}"))
        found.append(("Main job", f"{run.seconds:.1f}\u202fs", f"for {number(run.events)} events"))
    return found


def meanings(report: Report, compare: bool) -> list[tuple[str, str]]:
    """Terms and what each means."""
    lateness = span(report.allowed_lateness_ms)
    found = [
        ("Record", "One entry of the ACTIONS log. It is accepted, a duplicate, or a dead letter."),
        ("Accepted", "Well-formed, and the first record with its user and event ID within the dedup horizon."),
        ("Duplicate", "A record whose user and event ID were accepted before; dropped."),
        ("Watermark", "The greatest event time accepted so far in a partition."),
        ("Late", f"Accepted, but more than {lateness} behind the watermark. Late records are accepted records too."),
        ("Dead letter", "A record that is malformed, or whose event time lies ahead of its arrival by more than the clock skew allowed."),
        ("Save", "An accepted record with action save that was not late."),
        (
            "Revisit",
            "An impression or a grid_click on the user's own profile. It is credited to the latest save of that pin in the 7 days before.",
        ),
        ("Matured", f"A save that is 7 days and {lateness} behind the watermark: no later record can change its labels."),
        ("label_1dRevImpre", "An impression less than 24 h after the save."),
        ("label_1dRevGrid", "A click less than 24 h after the save."),
        ("label_7dRevGrid", "A click less than 7 days after the save."),
        ("First click", "The earliest click credited to a save. Its day is its age in whole days, 0 to 6."),
        ("As of", "Events after this time are left out, as if they had not happened yet."),
        ("±", "How far chance moves a share: half the width of its 95 % interval, in percentage points, were saves independent."),
    ]
    if compare:
        found += [
            ("Paper", "Pinterest's published figures on revisits of saved pins."),
            ("Diff., pp", "Ours less the paper's, in percentage points."),
        ]
    return found
