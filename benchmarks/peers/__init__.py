"""The same two tasks in other streaming tools, each in an environment of its own; `python -m benchmarks.peers`. See docs/benchmarks.md."""
