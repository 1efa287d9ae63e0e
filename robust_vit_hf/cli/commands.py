"""The table of commands."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pkgutil import resolve_name


@dataclass(frozen=True)
class Command:
    """A command. Its function takes the parsed options and returns the text to print, empty outside the main process."""

    options: str  # `module:name` of a dataclass of options, or of a function that parses the arguments
    function: str  # `module:name` of the function; both modules are imported only when the command is called
    title: str | None = None  # its line in the list of commands, if the options' docstring does not begin with one

    @property
    def summary(self) -> str:
        text = " ".join(inspect.getdoc(resolve_name(self.options)).split())
        return self.title or re.split(r"(?<=\?) |[.:;] ", f"{text} ")[0]


@dataclass(frozen=True)
class Group:
    summary: str
    commands: dict[str, Command | Group]


COMMANDS: dict[str, Command | Group] = {
    "train": Command(
        "robust_vit_hf.cli.train:parse_arguments",
        "robust_vit_hf.cli.train:train",
        "Finetune a model so that its relevance map leaves the background, and measure it before and after",
    ),
    "evaluate": Command(
        "robust_vit_hf.evaluation.options:EvaluateOptions", "robust_vit_hf.evaluation.evaluate:evaluate"
    ),
    "diagnose": Command(
        "robust_vit_hf.diagnosis.options:DiagnoseOptions", "robust_vit_hf.diagnosis.diagnose:run_diagnosis"
    ),
    "improve": Command(
        "robust_vit_hf.improvement.options:ImproveOptions", "robust_vit_hf.improvement.improve:run_improvement"
    ),
    "segment": Command("robust_vit_hf.evaluation.options:SegmentOptions", "robust_vit_hf.evaluation.segment:segment"),
    "masks": Group(
        "Make foreground masks: TokenCut, Grounding DINO with SAM, SAM 3, or COCO files",
        {
            "tokencut": Command(
                "robust_vit_hf.masks.options:TokenCutOptions", "robust_vit_hf.masks.make_masks:prepare_masks"
            ),
            "grounded": Command(
                "robust_vit_hf.masks.options:GroundedOptions", "robust_vit_hf.masks.make_masks:prepare_masks"
            ),
            "sam3": Command("robust_vit_hf.masks.options:Sam3Options", "robust_vit_hf.masks.make_masks:prepare_masks"),
            "coco": Command("robust_vit_hf.masks.options:CocoOptions", "robust_vit_hf.masks.make_masks:prepare_masks"),
        },
    ),
    "data": Group(
        "Prepare the sets of the paper, and later ones, as parquet, and describe any dataset",
        {
            "prepare": Command("robust_vit_hf.data.options:PrepareOptions", "robust_vit_hf.data.image_sets:prepare"),
            "describe": Command("robust_vit_hf.data.options:DescribeOptions", "robust_vit_hf.data.image_sets:describe"),
        },
    ),
    "convert": Command("robust_vit_hf.models.options:ConvertOptions", "robust_vit_hf.models.conversion:convert"),
    "interpolate": Command(
        "robust_vit_hf.evaluation.options:InterpolateOptions", "robust_vit_hf.evaluation.interpolate:interpolate_models"
    ),
    "page": Command(
        "robust_vit_hf.evaluation.options:PageOptions", "robust_vit_hf.evaluation.results_files:write_page_of"
    ),
    "app": Command("robust_vit_hf.app.options:AppOptions", "robust_vit_hf.app.server:serve"),
    "card": Command("robust_vit_hf.hub.options:CardOptions", "robust_vit_hf.hub.model_card:rewrite_card"),
    "push": Command("robust_vit_hf.hub.options:PushOptions", "robust_vit_hf.hub.upload:push"),
}
