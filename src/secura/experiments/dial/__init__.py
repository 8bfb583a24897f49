"""The dial: what is gained and what is kept at points between a base and what was made of it."""
