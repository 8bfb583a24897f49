"""Learning task after task: what protects earlier knowledge while a new task is learned."""
