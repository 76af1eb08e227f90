"""Dispatches the command line: `python -m alexnet_exp` trains, and a first argument selects another command.

It imports only what a command needs: `--help` takes a tenth of a second, and torch alone would take three.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # before `main` installs its handler, Ctrl-C ends the imports below without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import errno
import os
import sys
import traceback
from importlib import import_module

from alexnet_exp import __version__
from alexnet_exp.cli.arguments import HELP, command_of, config_dir_of, refuse_spaces
from alexnet_exp.cli.streams import open_streams
from alexnet_exp.errors import TRACEBACK_VARIABLE, ExitCode, UserError, error_text
from alexnet_exp.processes.ranks import drop_rank_variables
from alexnet_exp.processes.signals import stop_on_signals
from alexnet_exp.runs.status import ending_of
from alexnet_exp.sanitize import escape_controls

COMMANDS = {
    "train": "train an experiment with the given overrides (the default command)",
    "check": "compose, validate and build an experiment, and train one batch: for CI",
    "eval": "evaluate the checkpoint of runs: RUN... [--views 1|2|9|10] [--split NAME] [--ckpt best|last|FILE]",
    "predict": "print the five most probable classes of images: RUN IMAGE... [--json]",
    "summary": "print the layers, parameters and multiply-adds of a network: [overrides] [--json]",
    "bench": "measure images/s, share of peak FLOP/s, data wait, time of each layer: [overrides] [--batch 32,64]",
    "export": "export the network of a run as ONNX and safetensors: RUN [--format onnx|safetensors] [--out FOLDER]",
    "compare": "compare runs: which arm is better, by how much: PATH... [--baseline KEY=VALUE] [--html FILE]",
    "runs": "list the latest runs and their progress; show RUN; diff A B",
    "sweep": "run the jobs of a sweep: work FOLDER; confirm FOLDER --top N --seeds N",
    "resume": "resume a run or a sweep: PATH [trainer.max_epochs=N]",
    "plot": "draw curves, filters, predictions and nearest images of a run: RUN [--only NAMES]; or: schedule",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command line and returns its `ExitCode`."""
    open_streams()
    with stop_on_signals():
        return _main(arguments)


def _main(arguments: list[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        drop_rank_variables()
        _check_working_directory()
        given = _take_allowed(given)
        for word in given:
            if "=" not in word and len(f"{word}.".splitlines()) > 1:
                raise UserError(f"{word!r}: no run, file or command has this name")
            if "=" in word and any("\ud800" <= letter <= "\udfff" for letter in word):
                raise UserError(f"{word}: not UTF-8 text; in an ASCII locale set LC_ALL=C.UTF-8")
        if given[:1] == ["help"]:
            given = [*given[1:], "--help"]
        if given == ["--version"]:
            print(f"alexnet_exp {__version__}")
            return 0
        if given[:1] in (["-sc"], ["--shell-completion"]) and given[1:2] == ["query=bash"]:
            return int(import_module("alexnet_exp.cli.complete").run(given, COMMANDS))
        refuse_spaces(given)
        command, given = command_of(given, COMMANDS)
        if command == "train" and set(HELP) & set(given):
            print(_help(config_dir_of(given)))
            return 0
        if command == "train" and given and _is_stray(given[0]):
            raise UserError(_unknown(given[0], config_dir_of(given)))
        code: int = import_module(f"alexnet_exp.cli.{command}").run(given)
        return code
    except UserError as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            print(escape_controls(traceback.format_exc()), file=sys.stderr)
        print(error_text(error), file=sys.stderr)
        return ExitCode.BAD_INPUT
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        return ending_of(stop).code
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(escape_controls(f"{str(error.filename)[:100]}...: too long for the name of a file"), file=sys.stderr)
            return ExitCode.BAD_INPUT
        if isinstance(error, MemoryError):
            print(f"out of memory ({TRACEBACK_VARIABLE}=1 shows where)", file=sys.stderr)
            return ExitCode.FAILED
        line = escape_controls(f"{type(error).__name__}: {str(error).strip()}".splitlines()[0])
        print(f"{line} ({TRACEBACK_VARIABLE}=1 shows where)", file=sys.stderr)
        return ExitCode.FAILED


def _check_working_directory() -> None:
    try:
        os.getcwd()  # noqa: PTH109 (pathlib is not imported yet)
    except OSError as error:
        raise UserError(f"the working directory cannot be used ({error.strerror}); cd to one that exists") from None


def _take_allowed(arguments: list[str]) -> list[str]:
    """Removes `--allow PACKAGE` from the arguments: packages whose classes a configuration may use."""
    rest, packages = [], []
    words = iter(arguments)
    for word in words:
        if word == "--allow":
            packages.append(next(words, ""))
        elif word.startswith("--allow="):
            packages.append(word.removeprefix("--allow="))
        else:
            rest.append(word)
    if packages:
        from alexnet_exp.config.user_class import allow_packages

        if not all(name.replace(".", "_").isidentifier() for name in packages):
            raise UserError("--allow: needs the name of a package, such as --allow my_package")
        allow_packages(packages)
    return rest


def _is_stray(word: str) -> bool:
    """Returns whether the first argument is neither an override nor a flag, and so is meant as a command."""
    return not word.startswith(("-", "+", "~")) and "=" not in word


def _unknown(word: str, config_dir: str | None) -> str:
    from alexnet_exp.config.suggestions import suggest_argument
    from alexnet_exp.paths import groups

    return f"{word}: {suggest_argument(word, COMMANDS, groups(config_dir))}"


def _help(config_dir: str | None) -> str:
    from alexnet_exp.cli.help import text

    return text(COMMANDS, config_dir)


if __name__ == "__main__":
    sys.exit(main())
