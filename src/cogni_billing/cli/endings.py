"""Early ends of a command: by Ctrl-C, or because a reader closed its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import typer
from rich.console import Console
from typer.core import TyperGroup

# Shells report 128 plus the number of the signal that ended a program.
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

_READS: Final = "nothing was changed"
_WHOLE: Final = "all of it or nothing was done; it is safe to run again"
_AFTER: Final[Mapping[str | None, str]] = {
    "balance": _READS,
    "demo": "its database is thrown away; it is safe to run again",
    "doctor": _READS,
    "fold": "accounts stay as they were or are folded; it is safe to run again",
    "import": "import the file again to continue: recorded lines are replayed",
    "open-account": _WHOLE,
    "purchase": "run it again with the same payment: a recorded purchase is replayed",
    "seal": "seals that were written stay; run it again to add the rest",
    "statement": _READS,
    "sweep": "wallets that were updated stay so; run it again to continue",
    "verify": _READS,
}


class EndedEarly(Exception):
    """The command has ended with this exit code. The message is for standard error."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


class Commands(TyperGroup):
    """Commands that end as a shell expects."""

    def make_context(self, *args: Any, **kwargs: Any) -> typer.Context:
        """Parse the arguments, which prints help and the version."""
        with _early_end(None):
            context: Any = super().make_context(*args, **kwargs)
        return context  # type: ignore[no-any-return]

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        # Inside the context, so that the command's name is known.
        with _early_end(ctx):
            return super().invoke(ctx)


@contextmanager
def _early_end(context: typer.Context | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        command = None if context is None else context.invoked_subcommand
        after = _READS if context is None else _AFTER.get(command, _WHOLE)
        raise EndedEarly(INTERRUPTED, f"interrupted; {after}") from None
    except BrokenPipeError:
        raise EndedEarly(PIPE_CLOSED) from None


class Output(Console):
    """A console that reports a closed pipe. The base class would exit with a code of its own."""

    def on_broken_pipe(self) -> None:
        """End the command."""
        raise BrokenPipeError
