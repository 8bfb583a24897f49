"""One run of a grid from its declaration to its record, and which runs are due."""
