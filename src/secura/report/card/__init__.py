"""A model card for what a run has made, in the Hub's format."""
