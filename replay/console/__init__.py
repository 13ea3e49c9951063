"""The console: a page and its JSON, beside `tidemark serve`, that says how all parts of a data directory are.

It reads what lies on the disk, in the logs and in the server's own metrics, in threads of its own. It changes nothing and decides nothing, and no
request for features ever waits for it.
"""
