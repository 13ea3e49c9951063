"""Skew made on purpose: systems with a known mistake serve beside a sound one, and the check must find each row and name what is wrong with it."""
