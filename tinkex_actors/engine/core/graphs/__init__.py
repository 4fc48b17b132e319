"""Losses that arrive as data: traced graphs of operations (protocol 6.8)."""
