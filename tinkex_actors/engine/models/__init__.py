"""Where base models come from: the catalogue, the GGUF reader, the download. Only loading a model imports JAX."""
