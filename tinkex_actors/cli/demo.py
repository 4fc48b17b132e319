"""``demo``: the tutorial's script with a live view around it. What is trained, asked and told last is the script's."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["draw", "find_script", "run_demo"]

SCRIPT = "01_first_fine_tune.py"
PICTURE = Path("demo-loss.png")


def find_script() -> Path:
    """Return the path of the demo's script: beside this file in an installed package, in ``examples/`` of a checkout.

    Raises:
        ConfigError: neither is there.
    """
    here = Path(__file__).resolve()
    places = (here.parent / "examples" / SCRIPT, here.parents[2] / "examples" / SCRIPT)
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(
        f"The demo's script {SCRIPT} is missing; looked in {' and '.join(str(place.parent) for place in places)}. "
        "Run it from a checkout: make demo."
    )


def load_script(path: Path) -> ModuleType:
    """Import the script under a name that Python accepts (its file name begins with a digit)."""
    spec = importlib.util.spec_from_file_location("first_fine_tune", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run_demo(*, model: str | None, live: bool) -> None:
    """Fetch the weights if they are missing, then train, with a live view or with plain lines.

    Args:
        model: a name from ``models list``; None for the script's own.
        live: draw the actor tree and the loss while it runs; for terminals.

    Raises:
        ModelNotInstalledError: the weights are not here and cannot be fetched.
    """
    from tinkex_actors.cli import local_models
    from tinkex_actors.cli.logs import log_to_stderr
    from tinkex_actors.runtime import run

    began = time.perf_counter()
    log_to_stderr()
    script = load_script(find_script())
    model = model or str(script.MODEL)
    asked = time.perf_counter()
    local_models.pull(model, _print)
    began += time.perf_counter() - asked  # a download is not the demo's doing
    # A store of its own: the demo keeps nothing, and another process may be writing to the user's.
    with tempfile.TemporaryDirectory(prefix="tinkex-demo-") as store:
        history = run(_train(script, model, Path(store), live=live, began=began))
    print(draw(script, history, PICTURE))
    print(script.summary(history))


def draw(script: ModuleType, history: Any, path: Path) -> str:
    """Write the loss curve and return the sentence that says where it is; a training is not lost for its picture."""
    try:
        script.plot(history, path)
    except OSError as error:
        return (
            f"The loss curve could not be written to {path.absolute()} ({error.strerror}): run this in another folder."
        )
    return f"The loss curve is in {path}."


async def _train(script: ModuleType, model: str, store: Path, *, live: bool, began: float) -> Any:
    from tinkex_actors import Config, ServiceClient

    config = msgspec.structs.replace(Config.from_environment(base_url=f"local://{model}"), engine_store=store)
    async with ServiceClient(config=config) as service:
        view, report, say = await _open_view(service, script, model, live=live)
        with view:
            return await script.first_fine_tune(service, report, _timed(say, began), model)


def _print(text: str) -> None:
    print(text, flush=True)


async def _open_view(service: Any, script: ModuleType, model: str, *, live: bool) -> tuple[Any, Any, Any]:
    if not live:
        return nullcontext(), script.print_progress, _print
    from tinkex_actors.cli.live_view import open_live_view

    view = await open_live_view(service.system, steps=script.STEPS, title=f"{model}: LoRA fine-tune")
    return view, view.progress, view.say


def _timed(say: Any, began: float) -> Any:
    """Wrap ``say`` so that the first text, the first answer, is followed by the seconds since ``began``."""
    first = True

    def timed(text: str) -> None:
        nonlocal first
        say(text)
        if first:
            say(f"(the first answer came {time.perf_counter() - began:.1f} s after the start)")
            first = False

    return timed
