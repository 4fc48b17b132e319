"""Clients that ask about what exists: no session, no order."""

from tinkex_actors.clients.rest.admin import AdminClient
from tinkex_actors.clients.rest.client import RestClient
from tinkex_actors.clients.rest.pages import Pages
from tinkex_actors.clients.rest.unpacking import ArchiveLimits

__all__ = ["AdminClient", "ArchiveLimits", "Pages", "RestClient"]
