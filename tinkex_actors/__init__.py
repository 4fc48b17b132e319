"""tinkex_actors."""
