"""Redis beside task state: what reads features without the data directory, and the follower that fills it.

Task state is the truth. Redis follows it, and nothing of the flows waits for Redis or needs it.
"""
