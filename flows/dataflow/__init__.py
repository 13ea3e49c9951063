"""The thin adapter to Bytewax: sources that read our logs, a step that owns our tasks. Nothing outside this package and the flow modules knows it."""
