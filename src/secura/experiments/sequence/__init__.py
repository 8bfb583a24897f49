"""Tasks one after the other: stages on disk, the matrix of scores, and what can be asked of it later."""
