"""Examples to learn from: what was served, whether it was seen, and what came of it."""
