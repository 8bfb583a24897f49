"""Records as tables: means over seeds, SQL, and published results beside them."""
