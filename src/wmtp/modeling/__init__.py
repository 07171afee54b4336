"""The model: trunk, future heads, value head, checkpoints."""
