"""How servers differ from the hosted one: each difference a switch that a server of ours can be told to have.

The observed servers and what they do are in protocol 1.1, 3.1 and appendix B. A client that finds out about each of
these survives all of them; with the switches a test shows that it does.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tinkex_actors.errors import ConfigError
from tinkex_actors.types import ForwardBackwardInput
from tinkex_actors.wire.routes import ROUTES, Route

__all__ = ["FEATURES", "NO_QUIRKS", "OLD_FIELDS", "QUIRKS", "Quirks", "unknown_fields"]

FEATURES: Final = ("metadata_only", "protobuf", "sample_sequence_ids")
"""What a server can lack beside whole routes (``Quirks.without``)."""

QUIRKS: Final[dict[str, str]] = {
    "protobuf_crashes": "500 in plain text to every protobuf body; results are JSON",
    "refuses_json": "415 to training requests in JSON",
    "old_fields": "422 to every field that SDK 0.7 did not send, in FastAPI's shape",
    "empty_metrics": "training and optimizer steps answer no metrics",
    "short_prompt_logprobs": "prompt logprobs have n-1 entries: none for the first token",
    "needs_max_tokens": "422 to a sample without max_tokens",
    "needs_stop_list": "422 to a sample whose stop is a text instead of a list",
    "load_needs_model": "422 to load_weights without model_id: create the model, then load",
    "submits_answer_201": "promises are answered with status 201",
    "submits_answer_202": "promises are answered with status 202",
    "opaque_paths": "checkpoint paths of a shape of its own: ckpt://RUN!KIND!NAME",
    "wants_jwt": "client_config asks for the exchange of keys for tokens, and only tokens are accepted",
    "session_polls": "client_config switches on the session's poller and joining clients",
    "plain_errors": 'errors are plain text instead of {"detail": ...}',
}
"""Every switch by name, with what the server then does."""

OLD_FIELDS: Final[dict[str, frozenset[str]]] = {
    "create_session": frozenset({"project_id", "display_name"}),
    "create_model": frozenset({"optimizer_config"}),
    "load_weights": frozenset({"session_id", "model_seq_id", "user_metadata", "optimizer_config"}),
    "optim_step": frozenset({"optimizer_params"}),
    "save_weights": frozenset({"overwrite", "user_metadata", "ttl_seconds"}),
    "save_weights_for_sampler": frozenset({"kind", "user_metadata", "ttl_seconds"}),
    "asample": frozenset(
        {
            "topk_sample_logprobs",
            "target_prompt_logprobs",
            "prompt_alt_tokens_k",
            "prompt_logprobs_last_n",
            "record_stability_info",
        }
    ),
    "retrieve_future": frozenset({"allow_metadata_only"}),
}
"""By route, the fields that came after SDK 0.7 (protocol 14, appendix B)."""


class Quirks(msgspec.Struct, frozen=True, kw_only=True):
    """What is different about a server. Without arguments: nothing.

    Args:
        without: routes that answer 404, by their name in ``ROUTES``, and :data:`FEATURES` that are missing.
        unknown_fields: 422 to fields that this version does not know, in FastAPI's shape.

    The other fields are the switches of :data:`QUIRKS`, where each is described.
    """

    without: frozenset[str] = frozenset()
    unknown_fields: bool = False
    protobuf_crashes: bool = False
    refuses_json: bool = False
    old_fields: bool = False
    empty_metrics: bool = False
    short_prompt_logprobs: bool = False
    needs_max_tokens: bool = False
    needs_stop_list: bool = False
    load_needs_model: bool = False
    submits_answer_201: bool = False
    submits_answer_202: bool = False
    opaque_paths: bool = False
    wants_jwt: bool = False
    session_polls: bool = False
    plain_errors: bool = False

    @classmethod
    def named(cls, switches: tuple[str, ...] | list[str] = (), without: tuple[str, ...] | list[str] = ()) -> Quirks:
        """Return the quirks of these names; dashes count as underscores.

        Args:
            switches: names of :data:`QUIRKS`, or ``all``.
            without: names of routes and :data:`FEATURES`.

        Raises:
            ConfigError: no such name; the message has those there are.
        """
        chosen = [name.replace("-", "_") for name in switches]
        if "all" in chosen:
            # A server that refuses both encodings, or answers two statuses, is none; and one that wants tokens must
            # have the configuration that says so.
            chosen = [name for name in QUIRKS if name not in ("refuses_json", "submits_answer_202", "wants_jwt")]
        for name in chosen:
            if name not in QUIRKS:
                raise ConfigError(f"quirk {name!r}: expected one of {', '.join(QUIRKS)} or all.")
        lacking = frozenset(name.replace("-", "_") for name in without)
        for name in sorted(lacking):
            if name not in FEATURES and name not in ROUTES:
                known = ", ".join([*FEATURES, *sorted(ROUTES)])
                raise ConfigError(f"without {name!r}: expected a feature or a route: {known}.")
        return cls(without=lacking, **dict.fromkeys(chosen, True))

    def lacks(self, name: str) -> bool:
        """Whether a route or a feature is missing."""
        return name in self.without or (name == "protobuf" and self.protobuf_crashes)

    @property
    def submit_status(self) -> int:
        """The HTTP status of a promise."""
        return 201 if self.submits_answer_201 else 202 if self.submits_answer_202 else 200


NO_QUIRKS: Final = Quirks()
"""The hosted service's own behaviour."""


def unknown_fields(route: Route, body: bytes, *, old: bool = False) -> list[tuple[list[str | int], Any]]:
    """Return every field of a JSON body that ``route.request`` does not have: where it stands, and its value.

    Args:
        route: the endpoint.
        body: the JSON; what cannot be read has no unknown fields.
        old: count the fields of :data:`OLD_FIELDS` as unknown too.
    """
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    found: list[tuple[list[str | int], Any]] = []
    if old and isinstance(given, dict):
        late = OLD_FIELDS.get(route.name, frozenset())
        found += [([name], value) for name, value in given.items() if name in late]
    if route.name in ("forward_backward", "forward"):
        # Their JSON form is not their record's (protocol appendix B).
        inputs = ("forward_backward_input", "forward_input")
        for name, value in given.items() if isinstance(given, dict) else ():
            if name in inputs:
                _collect(msgspec.inspect.type_info(ForwardBackwardInput), value, [name], found)
            elif name not in ("model_id", "seq_id", "type"):
                found.append(([name], value))
    else:
        _collect(msgspec.inspect.type_info(route.request), given, [], found)
    return found


_TENSOR_FIELDS: Final = ("data", "dtype", "shape", "sparse_crow_indices", "sparse_col_indices")


def _collect(kind: Any, value: Any, where: list[str | int], found: list[tuple[list[str | int], Any]]) -> None:
    match kind:
        case msgspec.inspect.StructType() if isinstance(value, dict):
            fields = {field.encode_name: field.type for field in kind.fields}
            for name, item in value.items():
                if name in fields:
                    _collect(fields[name], item, [*where, name], found)
                elif name != kind.tag_field:
                    found.append(([*where, name], item))
        case msgspec.inspect.CustomType() if isinstance(value, dict):
            found += [([*where, name], item) for name, item in value.items() if name not in _TENSOR_FIELDS]
        case msgspec.inspect.ListType() | msgspec.inspect.CollectionType() if isinstance(value, list):
            # Token lists are long and hold no objects.
            if value and isinstance(value[0], dict | list):
                for index, item in enumerate(value):
                    _collect(kind.item_type, item, [*where, index], found)
        case msgspec.inspect.DictType() if isinstance(value, dict):
            for name, item in value.items():
                _collect(kind.value_type, item, [*where, name], found)
        case msgspec.inspect.UnionType() if isinstance(value, dict | list):
            options = [option for option in kind.types if _fits(option, value)]
            if options:
                _collect(options[0], value, where, found)


def _fits(kind: Any, value: Any) -> bool:
    if isinstance(kind, msgspec.inspect.StructType):
        if not isinstance(value, dict):
            return False
        return kind.tag_field is None or value.get(kind.tag_field, kind.tag) == kind.tag
    if isinstance(kind, msgspec.inspect.ListType):
        return isinstance(value, list)
    return isinstance(kind, msgspec.inspect.CustomType | msgspec.inspect.DictType) and isinstance(value, dict)
