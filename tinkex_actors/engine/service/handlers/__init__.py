"""One function for each endpoint, named as its route: a call goes in, a message or a response comes out.

::

    front         configuration, health, telemetry      sessions    sessions, and looking for them
    polls         results of promises                   training    models and their steps
    sampling      sampling sessions and samples         saving      checkpoints, snapshots and exports
    archive       listings of runs and checkpoints      checkpoints changing, copying and downloading them
    account       what a local engine has no account for
    paging        which part of a listing was asked for
"""
