"""Benchmarks, one module each: `python -m benchmarks.NAME [--json] [--quick]`. Modules that begin with an underscore are their parts."""
