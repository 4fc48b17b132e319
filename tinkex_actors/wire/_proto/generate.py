"""Write ``tinker_public_pb2.py`` from ``tinker_public.proto``; with ``--check``, only say whether it is up to date.

The module holds the compiled schema and nothing that depends on the compiler's version, so it loads with every protobuf
runtime the package allows, and regenerating it with another compiler gives the same bytes. It registers the schema in a
pool of its own: in the process-wide pool it would collide with any other package that has a schema of this name.

Run ``python -m tinkex_actors.wire._proto.generate [--check]``; it needs ``grpcio-tools``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCHEMA = HERE / "tinker_public.proto"
MODULE = HERE / "tinker_public_pb2.py"

_HEAD = '''"""Generated from tinker_public.proto by tinkex_actors.wire._proto.generate. Do not edit."""

from google.protobuf import descriptor_pool, message_factory

POOL = descriptor_pool.DescriptorPool()
DESCRIPTOR = POOL.AddSerializedFile(
'''

_MIDDLE = """)


def _message(name):
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{DESCRIPTOR.package}.{name}"))


"""


def render() -> str:
    """Compile the schema and return the module's text."""
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "schema.bin"
        status = protoc.main(["protoc", f"-I{HERE}", f"--descriptor_set_out={compiled}", SCHEMA.name])
        if status != 0:
            raise SystemExit(f"{SCHEMA.name} does not compile (protoc exit status {status}); see the lines above.")
        schema = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file[0]
    _forget_json_names(schema.message_type)
    blob = schema.SerializeToString(deterministic=True)
    lines = [f"    {blob[at : at + 64]!r}\n" for at in range(0, len(blob), 64)]
    messages = [f'{message.name} = _message("{message.name}")\n' for message in schema.message_type]
    numbers = [f"{value.name} = {value.number}\n" for enum in schema.enum_type for value in enum.value]
    return _HEAD + "".join(lines) + _MIDDLE + "".join(messages) + "\n" + "".join(numbers)


def _forget_json_names(messages) -> None:
    # Compilers differ in whether they write them, and nothing reads them.
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _forget_json_names(message.nested_type)


def main(arguments: list[str]) -> int:
    """Write the module, or with ``--check`` return 1 when it is out of date."""
    text = render()
    if arguments == ["--check"]:
        if MODULE.exists() and MODULE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{MODULE.name} is not what {SCHEMA.name} generates. Run this module without --check and commit the result.")
        return 1
    MODULE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
