"""The machinery behind ``tinkex_actors.runtime``. Nothing here is stable; import from the package above."""
