"""Pure state machines: every decision that could lose a step, flood a server or hang a user.

One module is one machine. A machine has no clock, no randomness and no I/O: instants arrive as ``now`` (seconds of one
monotonic clock), jitter as ``u`` in [0, 1). Large states change in place, and each event decides first and changes
last: when it raises, the state is as it was. An event that cannot happen (a number never allotted, a negative size)
raises ``ValueError``: that is a bug of the shell which fed it, never a failure of the service.

Nothing here is stable; only ``tinkex_actors.actors`` is meant to import it.
"""
