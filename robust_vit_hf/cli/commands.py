"""The table of commands."""

from __future__ import annotations

import inspect
import re
from pkgutil import resolve_name
from typing import NamedTuple


class Command(NamedTuple):
    """A command, whose modules are imported only when it is called.

    Args:
        options: `module:name` of a dataclass of options, or of a function that parses the arguments.
        function: `module:name` of a function that takes them, and returns what to print; nothing outside the main process.
        title: its line in the list of commands, if the first sentence of the docstring of the options is not one.
    """

    options: str
    function: str
    title: str | None = None

    @property
    def summary(self) -> str:
        text = self.title or " ".join(inspect.getdoc(resolve_name(self.options)).split())
        return re.split(r"(?<=\?) |[.:;] ", f"{text} ")[0].strip()


class Group(NamedTuple):
    summary: str
    commands: dict[str, Command | Group]


def _command(options: str, function: str, title: str | None = None) -> Command:
    return Command(f"robust_vit_hf.{options}", f"robust_vit_hf.{function}", title)


MASK_MAKERS = ("Dinov2", "TokenCut", "Grounded", "Sam3", "Rembg", "Alpha", "Coco")
OF_TRAIN = "Finetune a model on images with masks, so that relevance maps leave the background"
COMMANDS: dict[str, Command | Group] = {
    "diagnose": _command("diagnosis.options:DiagnoseOptions", "diagnosis.diagnose:run_diagnosis"),
    "improve": _command("improvement.options:ImproveOptions", "improvement.improve:run_improvement"),
    "train": _command("cli.train:parse_arguments", "cli.train:train", OF_TRAIN),
    "evaluate": _command("evaluation.options:EvaluateOptions", "evaluation.evaluate:evaluate"),
    "segment": _command("evaluation.options:SegmentOptions", "evaluation.segment:segment"),
    "masks": Group(
        "Make foreground masks, for example by DINOv2, SAM 3 or rembg",
        {
            name.lower(): _command(f"masks.options:{name}Options", "masks.make_masks:prepare_masks")
            for name in MASK_MAKERS
        },
    ),
    "data": Group(
        "Prepare the evaluation sets of the paper, and describe any dataset",
        {
            name: _command(f"data.options:{name.capitalize()}Options", f"data.image_sets:{name}")
            for name in ("prepare", "describe")
        },
    ),
    "convert": _command("models.options:ConvertOptions", "models.conversion:convert"),
    "interpolate": _command("evaluation.options:InterpolateOptions", "evaluation.interpolate:interpolate_models"),
    "app": _command("app.options:AppOptions", "app.server:serve"),
    "card": _command("hub.options:CardOptions", "hub.model_card:rewrite_card"),
    "push": _command("hub.options:PushOptions", "hub.upload:push"),
}
ROOT = Group(
    "Diagnose and improve image classifiers that decide by the background, and finetune them with masks", COMMANDS
)
