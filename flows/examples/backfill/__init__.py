"""Examples of a history that was never served by us: impressions stand for what was served, and the kernels say what features were then."""
