"""Whether what was served is what the log says, and how what is served has moved."""
