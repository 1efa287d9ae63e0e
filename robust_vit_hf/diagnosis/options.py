"""Options of `robust-vit diagnose`."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..data.known_sets import BUNDLED_BENCHMARK
from ..evaluation.options import PROTOCOL, BatchOptions, PairOptions
from ..masks.options import MASK_METHODS, MASK_MODEL
from ..models.image_processors import Protocol
from ..models.model_names import BUNDLED_MODEL
from ..utils.files import check_output_dir
from ..utils.options import SHARE, Range, option, output_dir


@dataclass(kw_only=True)
class OwnImagesOptions(BatchOptions):
    masks: str | None = option(
        None,
        "folder with masks (from `robust-vit masks`, or pictures named as the images), or a method that makes them: "
        f"{', '.join(MASK_METHODS)}, see docs/data.md (default: dinov2 for images without masks)",
        metavar="METHOD_OR_FOLDER",
    )
    mask_model: str | None = option(None, f"{MASK_MODEL}; with --masks rembg, its model or an ONNX file of ISNet")
    num_images: int = option(
        500, "images to measure, spread evenly over the classes; at least two of each", within=Range(2)
    )
    hold_out: float | None = option(
        None, "share of each class of `train` to measure, without `validation`", within=SHARE
    )
    attributes: list[str] = option(
        [], "what to exchange: background, border, corners, colours, sharpness, place, or `all`", metavar="NAME"
    )
    protocol: Protocol | None = option(None, PROTOCOL)
    json: bool = option(False, "print the result as one JSON object to stdout, and everything else to stderr")

    def __post_init__(self):
        super().__post_init__()
        if self.mask_model is not None and self.masks not in (None, "tokencut", "rembg"):
            raise ValueError(f"--mask_model is for --masks tokencut or rembg, not for {self.masks}: leave one out")

    @property
    def mask_folder(self) -> str | None:
        return None if self.masks in MASK_METHODS else self.masks

    @property
    def mask_method(self) -> str | None:
        """The method that makes masks; `None` if they are in a folder, or come with the images."""
        method = self.masks or (self.mask_model and "tokencut")
        return method if method in MASK_METHODS else None


@dataclass(kw_only=True)
class DiagnoseOptions(OwnImagesOptions, PairOptions):
    """Does a model decide by the background? Objects are put on backgrounds of their own class and of others, and the
    report says how often the model predicts the class of the background, as in the Backgrounds Challenge
    (https://huggingface.co/papers/2006.09994).

    Give images that the model was not trained on. Without --model, a linear classifier on DINOv2-S is fitted to one
    part of the photographs (of the split train) and measured on the rest, to see whether they invite a shortcut.

      robust-vit diagnose --model my-model --dataset photographs --output_dir runs/diagnosis
      robust-vit diagnose --dataset photographs --output_dir runs/photographs    # before training
    """

    model: str | None = option(
        None, "name, folder or Hub id (default: the bundled one; with --dataset, a classifier fitted to the images)"
    )
    split: str = option("", "split of --dataset (default: validation; without --model, train)")
    dataset: str | None = option(None, "labelled images: class folders, parquet, Hub id, … (default: bundled ones)")
    html: bool = option(False, "write report.html too")
    fail_if: str | None = option(
        None,
        "exit with status 3 if the verdict of the last model is `decides`, or the lower bound of its BG-Gap is above "
        "this number of points",
        metavar="CONDITION",
    )
    output_dir: Path = output_dir("runs/diagnosis")

    def __post_init__(self):
        super().__post_init__()
        if self.fail_if is not None and not re.fullmatch(r"decides|100|\d{1,2}(\.\d+)?", str(self.fail_if)):
            raise ValueError("Expected `fail_if` to be `decides` or a number of points from 0 to 100.")
        check_output_dir(self.output_dir, self.dataset, self.mask_folder)
        if self.dataset in (None, BUNDLED_BENCHMARK):
            if self.split or self.mask_folder is not None:
                raise ValueError(f"`{BUNDLED_BENCHMARK}` has its own: leave out --split and --masks FOLDER.")
            self.model = self.model or BUNDLED_MODEL
        if self.model is None:
            if given := [name for name in ("compare", "protocol") if getattr(self, name) is not None]:
                raise ValueError(f"--{', --'.join(given)} cannot be used without --model: give it, or leave this out")
        self.split = self.split or ("train" if self.model is None else "validation")
