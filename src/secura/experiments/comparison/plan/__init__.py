"""What runs will take, and whether they would work, before any is started."""
