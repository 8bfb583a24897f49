"""Ways to learn: the adapters, their defaults, the strategies beside them, and what goes together."""
