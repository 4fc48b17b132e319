"""The local engine: a real decoder with LoRA, trained and sampled on this machine (needs the extra ``local``).

``core`` computes, ``models`` finds and loads weights, ``checkpoints`` writes and reads adapters, ``store`` keeps them
by name, ``service`` answers the API's requests, ``transport`` is ``local://NAME``, ``serving`` is the same on a port.
Importing this package imports no JAX; ``core`` does.
"""
