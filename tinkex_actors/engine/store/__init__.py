"""Training runs and checkpoints on disk, written by one process at a time."""
