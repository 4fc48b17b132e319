"""The engine's server side: what answers the API's requests with the numeric core's results.

::

    router        request -> handler -> response (rescue: the number of a request that cannot be read)
    handlers/     one function for each endpoint
    differences   what a quirky server does to requests and responses; provocations: what it does wrong on request
    downloads     files behind links                    tokens     what a key is exchanged for
    naming        names of the base model
    host          the actor that works the jobs off, sweeps, and stops
    cell          everything one engine knows; its parts are in state/, the disk in ../store/
    compute       the numeric core in API types; only the compute thread imports it

Nothing here is stable; the stable way in is ``local://NAME`` and :func:`tinkex_actors.engine.serving.serve_model`.
"""
