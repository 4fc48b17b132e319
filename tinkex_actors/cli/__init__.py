"""The command line, ``tinkex-actors`` or ``python -m tinkex_actors``: nothing here is meant to be imported."""
