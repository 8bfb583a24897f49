"""What may be set, from which layers it comes, and the names it knows."""
