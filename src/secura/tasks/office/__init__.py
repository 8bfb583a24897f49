"""Tasks as a company would teach them, drawn by seed: what a customer writes, and what a program is to read of it."""
