"""Options of `robust-vit improve`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..diagnosis.options import OwnImagesOptions
from ..evaluation.options import PrecisionOptions
from ..utils.files import check_output_dir
from ..utils.options import COUNT, POSITIVE, SEED, SHARE, option, output_dir


@dataclass(kw_only=True)
class ImproveOptions(PrecisionOptions, OwnImagesOptions):
    """Mend a model that decides by the background: masks if there are none, new last layers, with --effort full also one training of all
    layers, and the choice of one by the validation images.

      robust-vit improve --model my-model --dataset photographs --output_dir runs/better
      robust-vit improve --model my-model --dataset photographs --output_dir runs/better --effort full

    New last layers are made from features of the training images and of their objects on other backgrounds; the training swaps backgrounds. Of
    these, and of models between them and the one before, the one is chosen whose expected top-1 is highest where the share
    --other_backgrounds of your photographs has other backgrounds than usual. All validation images choose and all measure, in five folds. The
    output folder is a model, with its card and report.html; or it says to keep yours. What is complete is skipped when the command is started
    again.
    """

    model: str = option(text="name, folder or Hub id of the model")
    dataset: str = option(
        text="labelled images: class folders, parquet, Hub id, …; masks are made where there are none"
    )
    train_split: str = option("train", "split to train on")
    eval_split: str = option(
        "validation",
        "split of the images that choose and measure; where it is missing, a third of the training images is held out",
    )
    other_backgrounds: float = option(
        0.25, "share of your photographs that will have other backgrounds than usual (default: 0.25)", SHARE
    )
    effort: Literal["quick", "full"] = option(
        "quick",
        "`quick` (the default): a new last layer alone, from features that are computed once; `full`: also a training of all layers, which "
        "takes many minutes",
    )
    backgrounds: str | None = option(
        None,
        "folder of pictures without objects of the classes, as backgrounds of the swap; by default those of your images",
    )
    learning_rate: float | None = option(
        None, "learning rate of the training (default: by the size of the model's weights)", POSITIVE
    )
    max_steps: int = option(240, "steps of the training (default: 240)", COUNT)
    train_batch_size: int = option(8, "images of a step (default: 8)", COUNT)
    only_these_classes: bool = option(
        False,
        "cut the model's head to the classes that have images, first of all; changes are measured from there. By default, the model keeps "
        "its other classes, whose weights new layers leave as they are",
    )
    fail_if: Literal["worse"] | None = option(
        None, "end with exit status 3, after writing everything, if the model that was found is `worse`"
    )
    seed: int = option(0, "of the splits, the order of the images and the swap", SEED)
    output_dir: Path = output_dir()

    def __post_init__(self):
        super().__post_init__()
        check_output_dir(self.output_dir, self.dataset, self.mask_folder, self.backgrounds)
        if self.train_batch_size == 1 and self.backgrounds is None:
            raise ValueError(
                "--train_batch_size 1: the swap takes the background of another image of the batch. Give 2 or more, or --backgrounds."
            )
