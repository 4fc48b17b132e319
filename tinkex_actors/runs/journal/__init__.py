"""A run's journal: what has happened, in SQLite, written off the loop."""
