"""Shells around the machines: they feed events in, perform the effects, and keep nothing that a crash may take.

Nothing here is stable; only ``tinkex_actors.clients`` is meant to import it.
"""
