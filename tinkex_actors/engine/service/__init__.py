"""The engine's server side: what answers the API's requests with the numeric core's results.

::

    router      request -> handler -> response
    front       configuration, sessions, polls          training    models and their steps
    sampling    sampling sessions and samples           archive     listings
    host        the actor that works the jobs off, sweeps, and stops
    cell        the engine's whole state: sessions, promises, ordering, jobs, store (claim)
    compute     the numeric core in API types; only the compute thread imports it

Nothing here is stable; the stable way in is ``local://NAME`` and :func:`tinkex_actors.engine.serving.serve_model`.
"""
