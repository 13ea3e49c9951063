"""Corrections: which records of ACTIONS count otherwise than they lie in the log, since when, and how flows follow."""
