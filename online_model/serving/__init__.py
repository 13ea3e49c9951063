"""`tidemark serve`: features over HTTP, each answer kept in SERVED with the values used and the log prefix that they reflect.

Values are those of the readers; nothing here computes any, and nothing here changes one on its way.
"""
