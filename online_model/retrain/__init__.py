"""Full retrains: a new base from the last full one, twice a week, published only if it is not worse than the one that is served.

No increment of the online learner ever reaches a new base: the same offline store gives the same bytes, whether or not a learner ran.
"""
