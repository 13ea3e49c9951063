"""How good scores are: metrics, whether a difference between two scorings is more than chance, and reports.

Scores and labels come in, figures go out. Nothing here learns, reads a clock, or draws a number that a seed doesn't fix.
"""
