"""Naive restatements of docs/semantics.md, sharing no code with flows/."""
