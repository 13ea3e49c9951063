"""What moves over time: actions and their drift, late records and dead letters, coverage of features, rates of labels. Counted from the logs alone.

Everything is a sum by stretch of time, so memory is bounded, what is read later adds up, and a part of the log gives the same as the whole cut to it.
Modules: `sums` (counts by time), `reading` (numbered logs, each record once), `actions`, `coverage`, `labels` (what is counted of each log), `values`
(what it says), `gathering` (a period), `following` (round after round, for `metrics`), `told` (as JSON and lines), `sections` and `page` (HTML).
"""
