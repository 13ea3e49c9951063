"""`tidemark run`: worker processes around the Bytewax flows, one lock on the data directory, one display."""
