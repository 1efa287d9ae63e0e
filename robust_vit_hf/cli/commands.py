"""The table of commands."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Command:
    """A command. Its function takes the parsed options and returns the text to print, empty outside the main process."""

    options: str  # path within this package of a dataclass of options, or of a function that parses the arguments
    function: str  # path of the function; both are imported only when the command is called
    title: str | None = None  # its line in the list of commands, if the options' docstring does not begin with one

    @property
    def summary(self) -> str:
        text = " ".join(inspect.getdoc(load(self.options)).split())
        return self.title or re.split(r"(?<=\?) |[.:;] ", f"{text} ")[0]


@dataclass(frozen=True)
class Group:
    summary: str
    commands: dict[str, Command | Group]


def load(path: str) -> Any:
    """Import an object by its path within this package, such as `hub.upload.push`."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"{__package__.partition('.')[0]}.{module}"), name)


COMMANDS: dict[str, Command | Group] = {
    "train": Command(
        "cli.train.parse_arguments",
        "cli.train.train",
        "Finetune a model so that its relevance map leaves the background, and measure it before and after",
    ),
    "evaluate": Command("evaluation.options.EvaluateOptions", "evaluation.evaluate.evaluate"),
    "diagnose": Command("diagnosis.options.DiagnoseOptions", "diagnosis.diagnose.run_diagnosis"),
    "improve": Command("improvement.options.ImproveOptions", "improvement.improve.run_improvement"),
    "figures": Command("evaluation.options.FigureOptions", "experiments.paper.example_figures.make_figures"),
    "segment": Command("evaluation.options.SegmentOptions", "evaluation.segment.segment"),
    "sis": Command("evaluation.options.SubsetOptions", "evaluation.sis.find_subsets"),
    "masks": Group(
        "Make foreground masks: TokenCut, Grounding DINO with SAM, SAM 3, or COCO files",
        {
            "tokencut": Command("masks.options.TokenCutOptions", "masks.make_masks.prepare_masks"),
            "grounded": Command("masks.options.GroundedOptions", "masks.make_masks.prepare_masks"),
            "sam3": Command("masks.options.Sam3Options", "masks.make_masks.prepare_masks"),
            "coco": Command("masks.options.CocoOptions", "masks.make_masks.prepare_masks"),
        },
    ),
    "data": Group(
        "Prepare the sets of the paper, and later ones, as parquet, and describe any dataset",
        {
            "prepare": Command("data.options.PrepareOptions", "data.prepare.prepare"),
            "describe": Command("data.options.DescribeOptions", "data.describe.describe"),
        },
    ),
    "convert": Command("models.options.ConvertOptions", "models.conversion.convert"),
    "sweep": Command("experiments.options.SweepOptions", "experiments.sweep.sweep"),
    "report": Command("experiments.options.ReportOptions", "experiments.report.report"),
    "interpolate": Command("evaluation.options.MixtureOptions", "evaluation.interpolate.interpolate_models"),
    "app": Command("app.options.AppOptions", "cli.app.show"),
    "card": Command("hub.options.CardOptions", "hub.model_card.rewrite_card"),
    "push": Command("hub.options.PushOptions", "hub.upload.push"),
}
