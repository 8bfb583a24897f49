"""Text that a model has written itself, and what it thought of every token: what training holds it to."""
