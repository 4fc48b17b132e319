"""The local engine: a real decoder with LoRA, trained and sampled on this machine (needs the extra ``local``).

``core`` computes, ``models`` finds and loads weights, ``checkpoints`` keeps adapters on disk. Importing this package
imports no JAX; ``core`` does.
"""
