"""What must never be seen, cut out of texts and values: keys, tokens, passwords.

Two kinds of secret are known. The *shapes* of credentials (an API key, a JWT, the user and password of a URL, the
value of an ``Authorization`` header) are found wherever they stand. A credential of no known shape, such as the key of
a server of one's own, is found after :func:`hide` was told of it. Log lines and telemetry pass through here on their
way out. Nothing of a secret is kept visible, not even its end: the ends of short ones are most of them.
"""

from __future__ import annotations

import functools
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from collections.abc import Set as AbstractSet
from typing import Any

__all__ = ["MASK", "hide", "redact", "redact_event", "redact_value", "without_credentials"]

MASK = "***"

# What is shorter is a placeholder for a server that asks for none, and too common a text to cut out of everything.
_SHORTEST_SECRET = 8
# Deeper than any value that a person reads; what is below is printed as text and searched as such.
_DEEPEST = 12

_NAMES = (
    r"(?:proxy[-_])?authorization|(?:set[-_])?cookie|api[-_]?key|secret|password|passwd|jwt|access[-_]client[-_]id"
    r"|(?:access|auth|refresh|bearer|hf|security)[-_]token"
)
_FIELD = re.compile(rf"(?:.*[-_.])?(?:{_NAMES}|credentials?)", re.IGNORECASE)
# Protocol 0.3 and 5.8: `tml-...` is a key, `eyJ...` a JWT; `hf_...` is the model hub's. A shape needs a body, so that a
# message may say "a key starts with tml-".
_SHAPE = re.compile(r"\btml-[\w.+/=-]{4,}|\beyJ[\w-]{12,}(?:\.[\w-]+){0,2}|\bhf_[A-Za-z0-9]{16,}")
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/?#@\s'\"]*(?:@[^/?#@\s'\"]*)*@")
# The signature of a presigned download URL is a key to the file for as long as it lives.
_SIGNATURE = re.compile(r"([?&](?:x-\w+-)?(?:signature|sig|credential|security-token)=)[^&\s'\"]+", re.IGNORECASE)
# `name: value`, `name=value`, `"name": "value"`, `(b'name', b'value')` in a text. A value begins like one: `key=...`
# and `key=None` say nothing. What stands in quotes is masked up to the closing one.
_NAMED = re.compile(
    rf"((?<![a-z])(?:{_NAMES})\\?['\"]?\s*(?:[:=]|,\s*(?=b?['\"]))\s*)"
    r"(b?\\?(?:'(?=[^']*')|\"(?=[^\"]*\")))?(?:(?:bearer|basic|digest|negotiate|token)\s+)?"
    r"(?!none\b|null\b|true\b|false\b)"
    r"(?(2)[a-z0-9+/_%~*-][^'\"\\\n]*|[a-z0-9+/_%~*-][^\s,;&'\"\\)}\]>]*)",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b((?:bearer|basic)\s+)(?=[^\s'\"]*[\d=])[A-Za-z0-9+/_=.~-]{8,}", re.IGNORECASE)
# One quick look for the words that the slow patterns above need: most texts have none of them.
_HINTS = (
    "authorization", "cookie", "api_key", "api-key", "apikey", "secret", "passw", "jwt", "client_id", "client-id",
    "_token", "-token", "bearer", "basic",
)  # fmt: skip

_hidden: Counter[str] = Counter()


def without_credentials(text: str) -> str:
    """Return a text with ``***`` for the user and password of every URL in it (``https://user:password@host``)."""
    return _URL_CREDENTIALS.sub(f"{MASK}@", text)


def hide(secret: str | None) -> Callable[[], None]:
    """Cut ``secret`` out of everything from now on, in the whole process, as loggers belong to the whole process.

    Args:
        secret: a credential of any shape; None and texts of fewer than 8 characters are left alone.

    Returns:
        What takes it back, for when the credential's owner ends; each call of ``hide`` needs its own.
    """
    if secret is None or len(secret) < _SHORTEST_SECRET:
        return lambda: None
    _hidden[secret] += 1
    pending = [secret]

    def take_back() -> None:
        for known in pending:
            _hidden[known] -= 1
            if _hidden[known] <= 0:
                del _hidden[known]
        pending.clear()

    return take_back


def redact(text: str) -> str:
    """Return ``text`` with ``***`` in place of every credential in it."""
    if len(text) < _SHORTEST_SECRET and ":" not in text and "=" not in text:
        return text
    if len(_hidden) > 1:
        for secret in sorted(_hidden, key=len, reverse=True):  # a key may begin with another
            text = text.replace(secret, MASK)
    else:
        for secret in _hidden:
            text = text.replace(secret, MASK)
    # Plain searches first: few texts have anything for the expressions, and a log line must cost little.
    if "://" in text:
        text = _URL_CREDENTIALS.sub(MASK + "@", text)
    lowered = text.lower()
    if any(hint in lowered for hint in _HINTS):
        text = _NAMED.sub(lambda found: f"{found[1]}{found[2] or ''}{MASK}", text)
        text = _SCHEME.sub(lambda found: f"{found[1]}{MASK}", text)
    if "tml-" in text or "eyJ" in text or "hf_" in text:
        text = _SHAPE.sub(MASK, text)
    return _SIGNATURE.sub(lambda found: f"{found[1]}{MASK}", text) if "=" in text else text


def redact_value(value: object) -> Any:
    """Return ``value`` without credentials: containers entry by entry, other objects as they are or as their text.

    What stands under a name such as ``api_key`` or ``Authorization`` is masked whole. Numbers, booleans and None are
    kept; an object whose ``repr`` shows no credential is kept as it is, for the program's own renderers.
    """
    return _clean(value, ())


def redact_event(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Redact a log line: a structlog processor, for the head of a program's own chain.

    The library's own lines have passed it before they reach that chain. ``exc_info`` becomes ``exception``, the
    traceback as Python prints it: renderers that show the values of local variables would show secrets.
    """
    shown = {str(name): _entry(name, value, ()) for name, value in event.items() if name != "exc_info"}
    if (error := _error_of(event.get("exc_info"))) is not None:
        shown["exception"] = redact("".join(traceback.format_exception(error)).rstrip())
    return shown


def _error_of(exc_info: object) -> BaseException | None:
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case None | False:
            return None
        case _:
            return sys.exc_info()[1]


def _clean(value: object, around: tuple[int, ...]) -> Any:
    """``around`` are the containers that hold it: one that holds itself ends there, as in Python's own ``repr``."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return redact(value)
        case BaseException():
            return redact(_text(value))
        case Mapping() | list() | tuple() | AbstractSet() if id(value) in around:
            return "..."
        case Mapping() | list() | tuple() | AbstractSet() if len(around) >= _DEEPEST:
            return redact(_text(value))
        case Mapping():
            within = (*around, id(value))
            return {_key(name): _entry(name, entry, within) for name, entry in value.items()}
        case list() | tuple() | AbstractSet():
            within = (*around, id(value))
            entries = [_clean(entry, within) for entry in value]
            return tuple(entries) if isinstance(value, tuple) else entries
        case _:
            text = _text(value)
            clean = redact(text)
            return value if clean == text else clean


def _key(name: object) -> Any:
    return redact(name) if isinstance(name, str) else name


def _entry(name: object, value: object, around: tuple[int, ...]) -> Any:
    if value is not None and value != "" and isinstance(name, str) and _is_secret(name):
        return MASK
    return _clean(value, around)


@functools.lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _FIELD.fullmatch(name) is not None


def _text(value: object) -> str:
    # Whatever its repr does, a line about it must not fail.
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
