"""A grid of runs: declared in one YAML, carried out by one engine, kept as one JSON a run."""
