"""Tidemark's ground floor: the event contract, logs, feature kernels, task state and the Bytewax dataflows."""
