"""The table of commands."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pkgutil import resolve_name


@dataclass(frozen=True)
class Command:
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
        if self.title is not None:
            return self.title
        text = " ".join(inspect.getdoc(resolve_name(self.options)).split())
        return re.split(r"(?<=\?) |[.:;] ", f"{text} ")[0]


@dataclass(frozen=True)
class Group:
    summary: str
    commands: dict[str, Command | Group]


def _command(options: str, function: str, title: str | None = None) -> Command:
    return Command(f"robust_vit_hf.{options}", f"robust_vit_hf.{function}", title)


COMMANDS: dict[str, Command | Group] = {
    "diagnose": _command("diagnosis.options:DiagnoseOptions", "diagnosis.diagnose:run_diagnosis"),
    "improve": _command("improvement.options:ImproveOptions", "improvement.improve:run_improvement"),
    "train": _command(
        "cli.train:parse_arguments",
        "cli.train:train",
        "Finetune a model on images with masks, so that relevance maps leave the background",
    ),
    "evaluate": _command("evaluation.options:EvaluateOptions", "evaluation.evaluate:evaluate"),
    "segment": _command("evaluation.options:SegmentOptions", "evaluation.segment:segment"),
    "masks": Group(
        "Make foreground masks, for example by DINOv2, SAM 3 or rembg",
        {
            name.lower(): _command(f"masks.options:{name}Options", "masks.make_masks:prepare_masks")
            for name in ("Dinov2", "TokenCut", "Grounded", "Sam3", "Rembg", "Alpha", "Coco")
        },
    ),
    "data": Group(
        "Prepare the evaluation sets of the paper, and describe any dataset",
        {
            "prepare": _command("data.options:PrepareOptions", "data.image_sets:prepare"),
            "describe": _command("data.options:DescribeOptions", "data.image_sets:describe"),
        },
    ),
    "convert": _command("models.options:ConvertOptions", "models.conversion:convert"),
    "interpolate": _command("evaluation.options:InterpolateOptions", "evaluation.interpolate:interpolate_models"),
    "app": _command("app.options:AppOptions", "app.server:serve"),
    "card": _command("hub.options:CardOptions", "hub.model_card:rewrite_card"),
    "push": _command("hub.options:PushOptions", "hub.upload:push"),
}
