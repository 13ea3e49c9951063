"""Studies: what parts of the learner are worth, on worlds that are simulated. Their parameters were fixed before a result was looked at.

All arms of a study have the same log, so they differ in the model alone. Nothing here is read by what serves or learns.
"""
