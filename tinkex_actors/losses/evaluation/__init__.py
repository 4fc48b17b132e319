"""What turns a loss into its value, its gradient and its metrics."""
