"""Compiled loops of the embedding table: arrays in, arrays changed in place. They know numpy and numba alone.

numba keys its cache by the file of the outer function (flows/compile_cache.py), so no function here may call one of another file.
"""
