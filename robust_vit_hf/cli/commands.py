"""The table of commands."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Command:
    """A command. Its function takes the parsed options and returns the text to print."""

    summary: str  # one-line help
    options: str  # path within this package of a dataclass of options, or of a function that parses the arguments
    function: str  # path of the function; both are imported only when the command is called


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
        "finetune a model so that its relevance map leaves the background, and measure it before and after",
        "cli.train.parse_arguments",
        "cli.train.train",
    ),
    "evaluate": Command(
        "measure accuracy, calibration and relevance of one or two models on shifted sets",
        "evaluation.options.EvaluateOptions",
        "evaluation.evaluate.evaluate",
    ),
    "diagnose": Command(
        "tell whether a model decides by the background of your images",
        "diagnosis.options.DiagnoseOptions",
        "diagnosis.diagnose.run_diagnosis",
    ),
    "improve": Command(
        "finetune a model so that it decides by the object, on your images, and tell whether it helped",
        "improvement.options.ImproveOptions",
        "improvement.improve.run_improvement",
    ),
    "figures": Command(
        "make the paper's figures of examples from the predictions of an evaluation",
        "evaluation.options.FigureOptions",
        "experiments.paper.example_figures.make_figures",
    ),
    "segment": Command(
        "measure how well the maps of several attribution methods cover the object",
        "evaluation.options.SegmentOptions",
        "evaluation.segment.segment",
    ),
    "sis": Command(
        "find few pixels that suffice for a confident prediction of any class, before and after finetuning",
        "evaluation.options.SubsetOptions",
        "evaluation.sis.find_subsets",
    ),
    "masks": Group(
        "make foreground masks: TokenCut, Grounding DINO with SAM, SAM 3, or COCO files",
        {
            name: Command(summary, f"masks.options.{options}", "masks.make_masks.prepare_masks")
            for name, options, summary in (
                ("tokencut", "TokenCutOptions", "salient object in the features of a ViT"),
                ("grounded", "GroundedOptions", "from the name of the class, or of its parts"),
                ("sam3", "Sam3Options", "from the name of the class, in one model"),
                ("coco", "CocoOptions", "from boxes and polygons that you have"),
            )
        },
    ),
    "data": Group(
        "prepare the sets of the paper, and later ones, as parquet, and describe any dataset",
        {
            "prepare": Command(
                "write a set of the paper, or a later one, as parquet, every image checked",
                "data.options.PrepareOptions",
                "data.prepare.prepare",
            ),
            "describe": Command(
                "rows, classes, mask coverage and the first problems of a dataset",
                "data.options.DescribeOptions",
                "data.describe.describe",
            ),
        },
    ),
    "convert": Command(
        "convert weights of timm to transformers and back",
        "models.options.ConvertOptions",
        "models.conversion.convert",
    ),
    "sweep": Command(
        "run a grid of trainings, on this machine or on a cluster",
        "experiments.options.SweepOptions",
        "experiments.sweep.sweep",
    ),
    "report": Command(
        "make the tables and figures of the paper from the runs of a sweep",
        "experiments.options.ReportOptions",
        "experiments.report.report",
    ),
    "interpolate": Command(
        "mix a model before and after finetuning (WiSE-FT), or measure a sweep of mixtures",
        "evaluation.options.MixtureOptions",
        "evaluation.interpolate.interpolate_models",
    ),
    "app": Command(
        "look at models in a page: maps of images, evaluated sets, objects on other backgrounds",
        "app.options.AppOptions",
        "cli.app.show",
    ),
    "card": Command(
        "rewrite the model card of a finetuned model, with the results of an evaluation",
        "hub.options.CardOptions",
        "hub.model_card.rewrite_card",
    ),
    "push": Command(
        "upload a model, an adapter or images with masks to the Hub",
        "hub.options.PushOptions",
        "hub.upload.push",
    ),
}
