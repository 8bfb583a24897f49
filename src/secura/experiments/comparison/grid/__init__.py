"""A declared grid, and the runs it stands for."""
