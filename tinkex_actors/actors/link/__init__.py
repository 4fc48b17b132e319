"""The link: everything between a shell's message and a server's answer (retries, credentials, shared reads)."""

from tinkex_actors.actors.link.exchange import PATIENT, Link

__all__ = ["PATIENT", "Link"]
