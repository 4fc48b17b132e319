"""One function for each endpoint, named as its route: a call goes in, a message or a response comes out.

::

    front      configuration, health, telemetry          sessions   sessions, and looking for them
    polls      results of promises                       training   models and their steps
    sampling   sampling sessions and samples             saving     checkpoints and snapshots
    archive    training runs and checkpoints             account    what a local engine has no account for
"""
