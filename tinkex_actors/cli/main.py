"""The commands, their arguments and their help. The work is in the modules beside this one, imported when needed.

Exit codes: 0 done, 1 an error of this package (told on stderr), 2 wrong usage, 70 something did not stop in time, 130
interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from tinkex_actors.cli.runs import runs
from tinkex_actors.errors import TinkexError
from tinkex_actors.redaction import redact

__all__ = ["app", "main"]

# Plain help: rich's tables would double the time to the first line (`--help` is held under 0.3 s by a test).
app = typer.Typer(
    name="tinkex-actors",
    help="Fine-tune and sample language models: the Tinker API's client, and a local engine that needs no key.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
models = typer.Typer(
    help="The models that the local engine can run.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)
app.add_typer(models, name="models")
app.add_typer(runs, name="run")

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="a name from `models list`", show_default=False)]


@app.command()
def demo(
    model: Annotated[str | None, typer.Option(help="another model, such as tiny", show_default=False)] = None,
    plain: Annotated[bool, typer.Option("--plain", help="plain lines, also in a terminal")] = False,
) -> None:
    """Fine-tune a real language model on this machine."""
    from tinkex_actors.cli.demo import run_demo

    run_demo(model=model, live=sys.stdout.isatty() and not plain)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="a name from `models list`, or a folder", show_default=False)],
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="the port to listen on; 0 takes a free one")] = 8000,
    dialect: Annotated[Literal["hosted", "json"], typer.Option(help="the dialect to speak")] = "hosted",
    strict: Annotated[
        bool, typer.Option("--strict", help="refuse a missing key, unknown fields, and a number used twice")
    ] = False,
    quirk: Annotated[list[str] | None, typer.Option(help="answer as such a server would; repeatable; or all")] = None,
    without: Annotated[list[str] | None, typer.Option(help="routes and features that are missing, a,b,c")] = None,
    provoke: Annotated[
        list[str] | None, typer.Option(help="do wrong for a while: asample-429=3, queue_paused=5s")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log what happens, on stderr")] = False,
) -> None:
    """Serve the local engine over HTTP, until SIGINT or SIGTERM."""
    from tinkex_actors.cli.logs import log_to_stderr
    from tinkex_actors.cli.serving import serve_until_stopped
    from tinkex_actors.runtime import run

    log_to_stderr(verbose=verbose)
    options = {"quirks": quirk or (), "without": without or (), "provoke": provoke or ()}
    run(serve_until_stopped(model, host=host, port=port, dialect=dialect, strict=strict, **options))


@app.command()
def sample(
    model: ModelName,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="what to say to the model", show_default=False)],
    max_tokens: Annotated[int, typer.Option(min=1, help="the longest answer, in tokens")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="for the same answer each time", show_default=False)] = None,
) -> None:
    """Ask a local model one thing and print its answer."""
    from tinkex_actors.cli.logs import log_to_stderr
    from tinkex_actors.cli.sampling import answer
    from tinkex_actors.runtime import run

    log_to_stderr()
    typer.echo(run(answer(model, text, max_tokens=max_tokens, temperature=temperature, seed=seed)))


@models.command("list")
def list_models() -> None:
    """List the local models, and which of them are on this machine."""
    from tinkex_actors.cli import local_models

    for line in local_models.listing():
        typer.echo(line)


@models.command("pull")
def pull_model(model: ModelName) -> None:
    """Fetch a model's weights once; a second call finds them and fetches nothing."""
    from tinkex_actors.cli import local_models

    local_models.pull(model, typer.echo)


@app.command()
def doctor(
    base_url: Annotated[str | None, typer.Option(help="the server to look at", show_default=False)] = None,
    probe: Annotated[
        str | None, typer.Option(metavar="MODEL", help="also try one pass and one sample", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object a line")] = False,
) -> None:
    """Say what is installed, set and reachable, and what the server speaks. Exits with 1 if something is wrong."""
    import msgspec

    from tinkex_actors.cli.doctor import Finding, examine
    from tinkex_actors.cli.logs import log_to_stderr
    from tinkex_actors.runtime import run

    def say(finding: Finding) -> None:
        typer.echo(msgspec.json.encode(finding).decode() if as_json else str(finding))

    log_to_stderr()
    found = run(examine(base_url, probe=probe, say=say))
    if any(finding.state == "bad" for finding in found):
        sys.exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version

    typer.echo(version("tinkex-actors"))


def main() -> None:
    """Run the command line on the process's arguments and exit."""
    try:
        app(prog_name="tinkex-actors")
    except TinkexError as error:
        typer.echo(f"Error: {redact(str(error))}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        typer.echo(f"Error: {error.filename}: {error.strerror}", err=True)
        sys.exit(1)
