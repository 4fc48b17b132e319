"""``run``: durable runs on this machine, listed, shown, resumed, exported, repaired."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["runs"]

runs = typer.Typer(
    help="Durable runs: what there is, how far it is, and going on with it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="the run's folder", show_default=False)]


@runs.command("list")
def list_runs(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where to look")] = Path()) -> None:
    """List the runs in a folder and below it, with how far each of them is."""
    from tinkex_actors.cli.run_report import listing

    for line in listing(folder):
        typer.echo(line)


@runs.command()
def show(
    run: RunFolder,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it into a PNG", show_default=False)] = None,
    metric: Annotated[
        str | None, typer.Option(help="draw this metric in place of the loss", show_default=False)
    ] = None,
) -> None:
    """Show a run: its loss over the steps, its checkpoints, each time it was opened, and what a person should know."""
    from tinkex_actors.cli.run_report import report

    for line in report(run, plot=plot, metric=metric):
        typer.echo(line)


@runs.command()
def resume(run: RunFolder) -> None:
    """Give the command again that opened the run last, in its folder. The run itself goes on where it stopped.

    Your environment is this shell's: keys and settings have to be in it, as they are in no journal.
    """
    from tinkex_actors.cli.run_report import command_of

    command, folder = command_of(run)
    typer.echo(f"in {folder}: {' '.join(command)}", err=True)
    os.chdir(folder)
    os.execv(command[0], command)


@runs.command()
def export(
    run: RunFolder,
    form: Annotated[Literal["json", "csv"], typer.Option("--format", help="csv has the steps only")] = "json",
    output: Annotated[Path | None, typer.Option(help="a file in place of stdout", show_default=False)] = None,
) -> None:
    """Write a run's history for other programs."""
    from tinkex_actors.runs.overview import history_csv, history_json, look_at

    record = look_at(run)[1]
    text = history_csv(record) if form == "csv" else history_json(record) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


@runs.command()
def repair(run: RunFolder) -> None:
    """Put the copy kept with the last checkpoint in the place of a damaged journal, which is kept beside it."""
    from tinkex_actors.cli.run_report import repaired

    typer.echo(repaired(run))
