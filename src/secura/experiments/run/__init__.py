"""One run: prepared, learned, asked, saved and resumed."""
