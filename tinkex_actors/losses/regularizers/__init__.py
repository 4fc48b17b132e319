"""Penalties on logprobs, and how they add up to a loss. ``pipeline`` combines them; the classes are the penalties."""
