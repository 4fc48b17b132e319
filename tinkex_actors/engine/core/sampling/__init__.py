"""Sampling: many requests decoded side by side, each as if it were alone.

::

    decoder   takes requests in, seats their answers in groups, decodes a chunk at a time   (and `sample`, for one)
    groups    rows that share a compiled call
    library   adapters and prompts, ready for use
    drawing   one request: how its answers are drawn, and what there is of them
    decoding  the compiled pieces

Each module imports only those below it.
"""

from tinkex_actors.engine.core.sampling.decoder import Decoder, sample
from tinkex_actors.engine.core.sampling.drawing import DecodeParams, Drawing, Sampled

__all__ = ["DecodeParams", "Decoder", "Drawing", "Sampled", "sample"]
