"""A full training of the ranking model: one epoch over final examples. It reads no increment of the online learner, and no clock."""
