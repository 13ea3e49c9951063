"""What an embedding is worth: the tables of PinnerFormer's paper (arXiv 2205.04507, section 4) made on other data, and a public yardstick.

Plans lie in `plans/` and were fixed before a result was looked at. Nothing here is read by what trains for serving, infers or serves.
"""
