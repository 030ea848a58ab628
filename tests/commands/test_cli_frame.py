"""Whatever a command does, it ends in one sentence and the documented exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import typer
from mplat.commands import build_app, main
from mplat.commands.frame import command as registry
from mplat.commands.frame.options import Json, Seed
from mplat.commands.frame.output import Output
from mplat.core import errors


@pytest.fixture
def add_command(monkeypatch):
    """Adds commands to the program for one test."""
    build_app()  # registers the real ones
    monkeypatch.setattr(registry.COMMANDS, "_entries", dict(registry.COMMANDS._entries))

    def add(function, name="probe"):
        registry.command(name)(function)

    return add


def _ended(capfd, argv):
    code = main(argv, prog="mplat")
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_help_takes_less_than_a_third_of_a_second_of_processor_time():
    def seconds(*arguments):
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    turns = [(seconds("-c", "import typer"), seconds("-m", "mplat", "--help")) for _ in range(5)]
    typer_alone, whole = (min(column) for column in zip(*turns, strict=True))
    # 0.3 s of a machine that imports typer in 0.12 s; a slower or busier one needs longer for both.
    assert whole < 0.3 * max(1, typer_alone / 0.12)


def test_without_a_command_the_help_goes_to_stderr(capfd):
    code, out, err = _ended(capfd, [])
    assert (code, out) == (2, "")
    assert err.startswith("Usage: mplat [OPTIONS] COMMAND [ARGS]...")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["modles"], "error: unknown command 'modles'; did you mean 'models'? valid: "),
        (["sites"], "error: `mplat sites`: missing argument '"),
        (["models", "--jsn"], "error: `mplat models` has no option --jsn; did you mean '--json'? valid: --help, "
         "--json\n"),
        (["--vresion"], "error: `mplat` has no option --vresion; did you mean '--version'? valid: --help, --version\n"),
        (["models", "extra"], "error: `mplat models`: got unexpected extra argument"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_explained_with_the_nearest_valid_name(capfd, argv, sentence):
    code, out, err = _ended(capfd, argv)
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert err.count("\n") == 1


def test_a_wrong_value_is_a_usage_error(capfd, add_command):
    def probe(seed: Seed = 0) -> None:
        """Probe."""

    add_command(probe)
    assert _ended(capfd, ["probe", "--seed", "x"])[:2] == (2, "")
    code, _, err = _ended(capfd, ["probe", "--seed", "-1"])
    assert (code, err) == (2, "error: --seed -1: a seed is a whole number from 0 to 9223372036854775807\n")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (errors.UsageError("no block 9; allowed: 0 to 3"), 2, "error: no block 9; allowed: 0 to 3\n"),
        (errors.InputError("q.json is empty"), 3, "error: q.json is empty\n"),
        (errors.ToleranceError("9 of 10 rows failed"), 1, "error: 9 of 10 rows failed\n"),
        (errors.ClusterError("lost"), 4, "error: lost\ncontinue with: mplat probe --name 'a b'\n"),
        (errors.StoppedEarly("time is up"), 75, "error: time is up\ncontinue with: mplat probe --name 'a b'\n"),
        (KeyboardInterrupt(), 130, "interrupted\ncontinue with: mplat probe --name 'a b'\n"),
        (typer.Exit(75), 75, ""),
        (OSError(errno.ENOSPC, "x", "part-0"), 4, "error: part-0: No space left on device; free some space and run the "
         "same command again\ncontinue with: mplat probe --name 'a b'\n"),
        (PermissionError(errno.EACCES, "x", "out"), 2, "error: out: Permission denied; name another file or folder\n"),
        (NotADirectoryError(errno.ENOTDIR, "x", "out"), 2, "error: out: Not a directory; name another file or "
         "folder\n"),
        (FileNotFoundError(errno.ENOENT, "x", "in.json"), 3, "error: in.json: No such file or directory\n"),
        (errors.InputError("model said \x1b[31mred\x1b[0m\x07"), 3, "error: model said red\n"),
    ],
)  # fmt: skip
def test_every_end_has_its_exit_code_and_sentence(capfd, add_command, error, code, sentence):
    def probe(name: str = "") -> None:
        """Probe."""
        raise error

    add_command(probe)
    assert _ended(capfd, ["probe", "--name", "a b"]) == (code, "", sentence)


def test_an_error_may_carry_the_command_that_continues(capfd, add_command):
    def probe() -> None:
        """Probe."""
        error = errors.StoppedEarly("stopped")
        error.resume_command = "mplat eval --out runs/a"  # type: ignore[attr-defined]
        raise error

    add_command(probe)
    assert _ended(capfd, ["probe"]) == (75, "", "error: stopped\ncontinue with: mplat eval --out runs/a\n")


def test_continuing_does_not_start_over(capfd, add_command):
    def probe(fresh: bool = False) -> None:
        """Probe."""
        raise errors.StoppedEarly("stopped")

    add_command(probe)
    assert _ended(capfd, ["probe", "--fresh"])[2] == "error: stopped\ncontinue with: mplat probe\n"


def test_a_bug_is_called_a_bug_and_its_traceback_is_in_a_file(capfd, add_command, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def probe() -> None:
        """Probe."""
        raise ZeroDivisionError("of my making")

    add_command(probe)
    code, out, err = _ended(capfd, ["probe"])
    (file,) = tmp_path.iterdir()
    assert (code, out) == (1, "")
    assert err == f"error: ZeroDivisionError: of my making (this is a bug in mplat; traceback: {file})\n"
    assert "in probe" in file.read_text() and "Traceback" not in err


def test_verbose_shows_the_traceback(capfd, add_command):
    def probe(verbose: bool = typer.Option(False, "-v")) -> None:
        """Probe."""
        raise errors.InputError("bad")

    add_command(probe)
    err = _ended(capfd, ["probe", "-v"])[2]
    assert err.startswith("Traceback") and err.endswith("error: bad\n")


def test_json_is_one_object_and_nothing_else(capfd, add_command):
    def probe(as_json: Json = False) -> None:
        """Probe."""
        output = Output(json=as_json)
        output.say("working")
        with output.progress("count", 3) as progress:
            progress.advance(3)
        output.result({"answer": [1, 2.5, None]}, "the answer is 1")

    add_command(probe)
    code, out, err = _ended(capfd, ["probe", "--json"])
    assert code == 0
    assert out.count("\n") == 1 and json.loads(out) == {"answer": [1, 2.5, None]}
    assert "working" in err
    assert _ended(capfd, ["probe"])[1] == "the answer is 1\n"


def test_an_error_with_json_is_one_object_too(capfd, add_command):
    def probe(as_json: Json = False) -> None:
        """Probe."""
        raise errors.StoppedEarly("stopped")

    add_command(probe)
    code, out, err = _ended(capfd, ["probe", "--json"])
    resume = "mplat probe --json"
    assert json.loads(out) == {"error": {"message": "stopped", "exit_code": 75, "resume_command": resume}}
    assert (code, err) == (75, f"error: stopped\ncontinue with: {resume}\n")
    code, out, _ = _ended(capfd, ["nonsense", "--json"])
    assert (code, json.loads(out)["error"]["exit_code"]) == (2, 2)


def test_a_result_is_not_followed_by_an_error_object(capfd, add_command):
    def probe(as_json: Json = False) -> None:
        """Probe."""
        Output(json=as_json).result({"bad_rows": 9}, "9 bad rows")
        raise errors.ToleranceError("too many bad rows")

    add_command(probe)
    code, out, err = _ended(capfd, ["probe", "--json"])
    assert (code, json.loads(out), err) == (1, {"bad_rows": 9}, "error: too many bad rows\n")


def test_json_has_no_nan(capfd, add_command):
    def probe(as_json: Json = False) -> None:
        """Probe."""
        Output(json=as_json).result({"mean": float("nan")}, "")

    add_command(probe)
    code, out, _ = _ended(capfd, ["probe", "--json"])
    assert code == 1 and "bug" in json.loads(out)["error"]["message"]


def test_commands_of_two_words(capfd, add_command):
    def show() -> None:
        """Show."""
        Output().result({}, "shown")

    add_command(show, "probe show")
    add_command(show, "probe ls")
    assert _ended(capfd, ["probe", "show"]) == (0, "shown\n", "")
    assert _ended(capfd, ["probe"])[2] == "error: `mplat probe` needs one more word; valid: probe ls, probe show\n"
    assert _ended(capfd, ["probe", "shwo"])[2] == (
        "error: `mplat probe shwo` is no command; did you mean 'probe show'? valid: probe ls, probe show\n"
    )


def test_a_command_and_commands_below_it(capfd, add_command):
    def alone(word: str = "none") -> None:
        """Alone."""
        Output().result({}, f"alone {word}")

    def below() -> None:
        """Below."""
        Output().result({}, "below")

    add_command(alone, "probe")
    add_command(below, "probe ls")
    assert _ended(capfd, ["probe", "--word", "ls"])[1] == "alone ls\n"
    assert _ended(capfd, ["probe", "ls"])[1] == "below\n"


def _signalled(number: int) -> tuple[int, str]:
    # a shell that starts tests in the background has them ignore Ctrl-C, and their children inherit that
    script = """
        import signal, sys, time
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from mplat.commands import build_app, main
        from mplat.commands.frame import command as registry
        def probe():
            "Probe."
            print("ready", flush=True)
            try:
                time.sleep(60)
            except Exception:
                print("swallowed", flush=True)
        registry.command("probe")(probe)
        sys.exit(main(["probe"]))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert out == ""
        return process.returncode, err


def test_f6_ctrl_c_ends_with_130_and_how_to_continue():
    assert _signalled(signal.SIGINT) == (130, "interrupted\ncontinue with: mplat probe\n")


def test_f6_sigterm_ends_with_75_and_how_to_continue():
    assert _signalled(signal.SIGTERM) == (75, "error: stopped by SIGTERM\ncontinue with: mplat probe\n")


def test_a_reader_that_has_had_enough_is_no_error():
    script = """
        import sys
        from mplat.commands import main
        from mplat.commands.frame import command as registry, output
        def probe():
            "Probe."
            output.Output().result({}, "a line\\n" * 100_000)
        registry.command("probe")(probe)
        sys.exit(main(sys.argv[1:]))
    """
    for word in ("probe", "--help"):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), word], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(30) == 0


def test_another_broken_pipe_is_an_error(capfd, add_command):
    def probe() -> None:
        """Probe."""
        raise BrokenPipeError(errno.EPIPE, "the connection to a worker broke")

    add_command(probe)
    code, _, err = _ended(capfd, ["probe"])
    assert code == 1 and "the connection to a worker broke" in err


def test_i19_no_option_allows_code_of_a_model_or_a_pickle():
    commands = typer.main.get_command(build_app()).commands.values()  # type: ignore[attr-defined]
    options = {option for command in commands for parameter in command.params for option in parameter.opts}
    assert len(options) > 50 and not [o for o in options if "remote" in o or "trust" in o or "pickle" in o]
