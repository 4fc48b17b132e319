"""What the engine would compute on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["devices"]


def devices() -> tuple[str, list[str]] | None:
    """Return JAX's version and its devices, such as ``("0.10.1", ["cpu:0 (cpu)"])``; None where JAX is not installed.

    Loads JAX, which takes seconds where there is an accelerator.
    """
    try:
        found = version("jax")
        import jax
    except (ImportError, PackageNotFoundError):
        return None
    return found, [f"{device.platform}:{device.id} ({device.device_kind})" for device in jax.devices()]
