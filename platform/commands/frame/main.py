"""The command line: `mplat`, `python -m mplat` and `python cli.py` are all `main`.

This module builds the app from the command files in the folder above and turns every way in which a command can end
into one sentence and an exit code (the table is in `mplat.errors`). Commands therefore raise; they never print errors
or exit.

A non-zero exit tells what happened on stderr, and, where running again helps, the exact command that continues. With
`--json` the same is on stdout as one object: {"error": {"message", "exit_code", "resume_command"}}. Tracebacks are for
bugs and for `-v`.
"""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from ...core.end_signals import end_signals, guarded, leave_terminal
from ...core.errors import InputError, MplatError, StoppedEarly, UsageError, suggest
from ...core.plain_text import clean
from .command import register_all
from .drawing import coloured_help
from .output import INVOCATION, Invocation, write_json

__all__ = ["build_app", "main"]

_RESUMABLE = {4, 75, 130}


class _Terminated(BaseException):
    """SIGTERM or SIGHUP arrived, whose name it has. Like KeyboardInterrupt it is no Exception, so that no row-level
    error handling swallows it."""


class CommandGroup(TyperGroup):
    """The top level of the command line: also resolves commands of two words and explains unknown ones."""

    def get_help(self, ctx: Any) -> str:
        """In colours on a terminal."""
        return coloured_help(super().get_help(ctx), sys.stdout)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        for words in (2, 1):
            name = " ".join(args[:words])
            if len(args) >= words and name in self.commands:
                if words == 1:
                    self._refuse_second_word(args)
                return name, self.commands[name], args[words:]
        below = sorted(name for name in self.commands if name.startswith(f"{args[0]} "))
        if below and (len(args) < 2 or args[1].startswith("-")):
            raise UsageError(f"`mplat {args[0]}` needs one more word; valid: {', '.join(below)}")
        if below:
            raise UsageError(f"`mplat {args[0]} {args[1]}` is no command; {suggest(' '.join(args[:2]), below)}")
        visible = [name for name, entry in self.commands.items() if not entry.hidden]
        raise UsageError(f"unknown command {args[0]!r}; {suggest(args[0], visible, limit=30)}")

    def _refuse_second_word(self, args: list[str]) -> None:
        """`interp lss`: a command that takes options alone, and of whose name there are longer ones."""
        below = sorted(name for name in self.commands if name.startswith(f"{args[0]} "))
        takes_words = any(p.param_type_name == "argument" for p in self.commands[args[0]].params)
        if below and not takes_words and len(args) > 1 and not args[1].startswith("-"):
            raise UsageError(f"`mplat {args[0]} {args[1]}` is no command; {suggest(' '.join(args[:2]), below)}")


def build_app() -> typer.Typer:
    """The typer app with every command."""
    app = typer.Typer(
        name="mplat",
        cls=CommandGroup,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
        help="Train, dissect and steer state-space language models, on a laptop or on a Ray cluster.",
        epilog="Help of one command: mplat COMMAND --help. Is this installation sound: mplat doctor.",
    )

    @app.callback()
    def _root(
        version: bool = typer.Option(
            False, "--version", is_eager=True, callback=_show_version, help="Show the version."
        ),
    ) -> None: ...

    register_all(app)
    return app


def main(argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run one command and return its exit code; never raises and never calls `sys.exit`.

    `argv` are the words after the program name (default: those of this process); `prog` is how the program was started,
    for the commands that messages quote.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    invocation = Invocation(
        json="--json" in words, verbose=any(re.fullmatch(r"--verbose|-[qv]*v[qv]*", w) for w in words)
    )
    token = INVOCATION.set(invocation)
    previous, streams = _raise_on_end(), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = map(guarded, streams)
    try:
        try:
            return _run(words, prog or _program())
        except BaseException as error:  # the one place where every way to end becomes a sentence and a code
            return _report(error, words, prog or _program(), invocation)
    finally:
        sys.stdout, sys.stderr = streams
        for number, handler in previous.items():
            signal.signal(number, handler)
        INVOCATION.reset(token)


def _run(words: list[str], prog: str) -> int:
    root = typer.main.get_command(build_app())
    if not words:
        with root.make_context(prog, [], resilient_parsing=True) as ctx:
            sys.stderr.write(clean(root.get_help(ctx)) + "\n")
        return 2
    try:
        with root.make_context(prog, words) as ctx:
            root.invoke(ctx)
    except typer.Exit as exit_request:
        code = exit_request.exit_code
    else:
        code = 0
    sys.stdout.flush()
    return code


def _report(error: BaseException, words: list[str], prog: str, invocation: Invocation) -> int:
    """Say on stderr (and as JSON where asked) how the command ended; the exit code."""
    if isinstance(error, BrokenPipeError) and _stdout_is_gone():
        return 0  # the reader, such as `head`, had enough
    code, message = _explain(error)
    resume = getattr(error, "resume_command", None)
    if resume is not None:  # the words that do not change what is done, only what is said
        resume = shlex.join(
            [*shlex.split(resume), *(w for w in words if re.fullmatch(r"--json|--quiet|--verbose|-[qv]+", w))]
        )
    if resume is None and code in _RESUMABLE:
        resume = shlex.join([*shlex.split(prog), *(w for w in words if w != "--fresh")])
    bug = code == 1 and not isinstance(error, MplatError)
    if bug:
        message += f" (this is a bug in mplat; traceback: {_write_traceback(error)})"
    if invocation.verbose:
        sys.stderr.write("".join(traceback.format_exception(error)))
    lines = [f"error: {message}"] if code != 130 else [message]
    if resume:
        lines.append(f"continue with: {resume}")
    sys.stderr.write(clean("\n".join(lines)) + "\n")
    sys.stderr.flush()
    if invocation.json and not invocation.result_written:
        write_json({"error": {"message": clean(message), "exit_code": code, "resume_command": resume}})
    return code


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and sentence for whatever ended a command."""
    if isinstance(error, MplatError):
        return error.exit_code, str(error)
    if isinstance(error, typer.TyperException):
        return error.exit_code, _usage_sentence(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 130, str(error) or "interrupted"
    if isinstance(error, _Terminated):
        return StoppedEarly.exit_code, f"stopped by {error}"
    if isinstance(error, SystemExit):
        return (error.code, "ended") if isinstance(error.code, int) else (1, str(error.code))
    if isinstance(error, OSError) and (explained := _explain_os_error(error)):
        return explained
    if isinstance(error, MemoryError):
        return 4, "out of memory; use a smaller batch, a smaller model or fewer --actors"
    if isinstance(error, RecursionError):
        return 1, "RecursionError: too deeply nested"
    first_line = (str(error).strip().splitlines() or [""])[0]
    return 1, f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _explain_os_error(error: OSError) -> tuple[int, str] | None:
    """Exit code and sentence for a file-system error that the user can mend; None for any other."""
    where = f"{error.filename}: " if error.filename else ""
    what = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 4, f"{where}{what}; free some space and run the same command again"
    if not error.filename:
        return None
    if isinstance(error, FileNotFoundError):
        return InputError.exit_code, f"{where}{what}"
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError) or error.errno in (
        errno.EROFS,
        errno.ENAMETOOLONG,
    ):
        return UsageError.exit_code, f"{where}{what}; name another file or folder"
    return None


def _usage_sentence(error: typer.TyperException) -> str:
    """What the option parser complains about, in our words: with the nearest option, the command and where help is."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "mplat"
    option = getattr(error, "option_name", None)
    if ctx is not None and option and type(error).__name__ == "NoSuchOption":
        valid = [name for parameter in ctx.command.params for name in (*parameter.opts, *parameter.secondary_opts)]
        options = [name for name in valid if name.startswith("--")] + ["--help"]
        return f"`{path}` has no option {option}; {suggest(option, options, limit=30)}"
    message = error.format_message().rstrip(".")
    return f"`{path}`: {message[:1].lower()}{message[1:]}; see `{path} --help`"


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            text = version("mplat")
        except PackageNotFoundError:
            text = "(from a checkout, not installed)"
        sys.stdout.write(f"mplat {text}\n")
        raise typer.Exit


def _program() -> str:
    """How this process was started, as it can be typed again."""
    script = sys.argv[0] if sys.argv else ""
    name = os.path.basename(script)
    if name == "__main__.py":
        return "python -m mplat"
    if name == "cli.py":
        return f"python {shlex.quote(script)}"
    return "mplat"


def _raise_on_end() -> dict[signal.Signals, Any]:
    """SIGTERM and SIGHUP unwind the command like Ctrl-C, so that files are closed; the previous handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        if number == signal.SIGHUP:
            leave_terminal()
        raise _Terminated(signal.Signals(number).name)

    return {number: signal.signal(number, terminate) for number in end_signals() if number != signal.SIGINT}


def _stdout_is_gone() -> bool:
    """Whether stdout is the pipe that broke (and not, say, a connection); if so it is replaced.

    Replaced, because the interpreter would complain when it flushes the lost rest at its end.
    """
    descriptor = sys.stdout.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True


def _write_traceback(error: BaseException) -> str:
    """The traceback of a bug in a file of its own; the path, or why there is none."""
    import tempfile  # with its random names a tenth of what `--help` imports

    try:
        descriptor, path = tempfile.mkstemp(prefix="mplat-bug-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError as problem:
        return f"not written, {problem}; use -v"
    return path
