"""The link: everything between a shell's message and a server's answer (retries, credentials, shared reads)."""

from tinkex_actors.actors.link.events import BreakerChanged, CredentialReplaced, RequestCoalesced, StaleAnswerUsed
from tinkex_actors.actors.link.exchange import Link

__all__ = ["BreakerChanged", "CredentialReplaced", "Link", "RequestCoalesced", "StaleAnswerUsed"]
