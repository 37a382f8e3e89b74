"""Learn a shared space from pairs: data, feature cache, heads, losses, trainer, export. Not: measuring it."""
