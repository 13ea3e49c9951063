"""A new generation of state beside the live one, under a correction; what it changes; and the switch to it."""
