"""The command line ``mlcflow``: one file a command, loaded when it is asked for.

Exit codes: 0, all is well; 1, the model, the module or the machine failed; 2, the command was
not understood (an unknown command, option, pipeline or stage, a file that is not there).
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import IO, Any

import click

from mlcflow import __version__, config
from mlcflow.errors import MlcflowError

COMMANDS = {
    "run": "mlcflow.tools.run",
    "compile": "mlcflow.tools.compile",
    "opt": "mlcflow.tools.opt",
    "pipelines": "mlcflow.tools.pipelines",
    "check": "mlcflow.tools.check",
    "verify": "mlcflow.tools.verify",
    "bisect": "mlcflow.tools.bisect",
    "bench": "mlcflow.tools.bench",
    "report": "mlcflow.tools.report",
    "cache": "mlcflow.tools.cache",
    "doctor": "mlcflow.tools.doctor",
}
"""The module of each command; it defines ``command``."""


class Failure(click.ClickException):
    """What went wrong, in words; the first line is a summary."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class Misuse(click.ClickException):
    """A command that was not understood; says so in one line first, then where to read on."""

    exit_code = 2

    def __init__(self, error: click.UsageError) -> None:
        super().__init__(error.format_message())
        self.command = error.ctx.command_path if error.ctx else "mlcflow"

    def show(self, file: IO[Any] | None = None) -> None:
        message = self.message[:1].lower() + self.message[1:]
        click.echo(f"error: {message}\nsee '{self.command} --help'", file=file, err=True)


class Commands(click.Group):
    """The commands of the table; errors of mlcflow end in a message, not in a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"no command '{args[0]}'{hint}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _open_streams()
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise Misuse(error) from error

    def invoke(self, ctx: click.Context) -> object:
        try:
            _start_logging()
            return super().invoke(ctx)
        except click.UsageError as error:
            raise Misuse(error) from error
        except ModuleNotFoundError as error:
            raise _missing(error) from error
        except MlcflowError as error:
            if logging.getLogger("mlcflow").isEnabledFor(logging.INFO):
                raise
            raise Failure(str(error)) from error
        except MemoryError as error:
            raise Failure(f"out of memory{f': {error}' if str(error) else ''}") from error
        except OSError as error:
            if error.filename is None:  # a closed pipe is no failure of ours
                raise
            raise Failure(f"{error.filename}: {error.strerror}") from error


def _missing(error: ModuleNotFoundError) -> Exception:
    """The error that says how to install what is missing; itself if it is nothing of ours."""
    from mlcflow.check.packages import of_import

    package = of_import(error.name or "")
    if package is None:
        return error
    return Failure(f"this needs {package.name}: {package.command}")


def _open_streams() -> None:
    """Give a process that was started without standard streams (``>&-``) ones that lead nowhere.

    Another file would get their number, and what is printed would end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115


def _start_logging() -> None:
    """Show on standard error what ``MLCFLOW_DEBUG`` asks for."""
    if config.from_environment().debug:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger = logging.getLogger("mlcflow")
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="mlcflow", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Lower machine-learning models to native code with MLIR pipelines in Python.

    \b
    Exit codes:
      0  all is well
      1  the model, the module or the machine failed
      2  the command was not understood

    \b
    Environment:
      MLCFLOW_DEBUG=1..4    tell more on standard error: 1 stages, 2 steps,
                            3 the IR after each stage, 4 after each step
      MLCFLOW_DUMP_DIR=DIR  write the IR of each stage into DIR
      MLCFLOW_CACHE_DIR=DIR keep compiled programs in DIR; empty: keep none
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
