"""`tidemark ingest`: files of history become records of ACTIONS.

options (what the user asked) → sources (a file's rows) → convert, normalise (columns of the contract, or raw records) → producer (the log).
"""
