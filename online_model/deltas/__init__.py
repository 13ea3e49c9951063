"""Deltas: the rows that a learner changes on a base, numbered without gaps, in the log EMBEDDINGS, and how a reader applies each exactly once.

A delta carries rows as they are now, not what was added to them. Whoever has read all of them up to one has the rows that the learner had there, to
the byte; whoever can't is told why, and begins again at a snapshot.
"""
