"""The online learner: rows of users and pins follow what is seen and done within a minute, on a base whose other weights stay as they are.

What rows become is a function of a base and of a prefix of EXAMPLES. No clock, no reading size and no kill changes them.
"""
