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
    """Make a model decide less by the background, from labelled photographs; masks are made where there are none.

    New last layers are fitted to features of the training images and of their objects on other backgrounds; --effort full also finetunes all
    layers with swapped backgrounds. The candidates are these models, your model, and interpolations between them. The best on the validation
    images, for the share of your photographs that will have other backgrounds than usual (--other_backgrounds), is written to the output folder,
    with its card and report.html. If your model is best, there is only the report. An interrupted run resumes when it is started again.

      robust-vit improve --model my-model --dataset photographs --output_dir runs/better
      robust-vit improve --model my-model --dataset photographs --output_dir runs/better --effort full
    """

    model: str = option(text="name, folder or Hub id of the model")
    dataset: str = option(text="labelled images: class folders, parquet, Hub id, …; masks are made if there are none")
    train_split: str = option("train", "split to train on")
    eval_split: str = option(
        "validation",
        "split to choose and measure on",
    )
    hold_out: float = option(
        1 / 3,
        "share of the images of each class of `train` that is `validation`, if there is no such split (1/3)",
    )
    other_backgrounds: float = option(
        0.25, "share of your photographs that will have other backgrounds than usual (default: 0.25)"
    )
    effort: Literal["quick", "full"] = option(
        "quick",
        "`quick` (the default): only a new last layer; `full`: also finetune all layers, which takes many minutes",
    )
    backgrounds: str | None = option(
        None,
        "folder of pictures without objects of the classes, as backgrounds to train on; by default those of your images",
    )
    learning_rate: float | None = option(
        None, "learning rate of the training (default: set by the size of the model's weights)"
    )
    max_steps: int = option(240, "steps of the training (default: 240)")
    train_batch_size: int = option(8, "batch size of the training (default: 8)")
    only_these_classes: bool = option(
        False, "first remove the classes without images from the model (default: keep them, and their weights)"
    )
    fail_if: Literal["worse"] | None = option(None, "exit with status 3 if the new model is `worse`")
    seed: int = option(0, "seed of the splits, the order of the images and the swap")
    output_dir: Path = output_dir()

    def __post_init__(self):
        super().__post_init__()
        self.check(other_backgrounds=SHARE, learning_rate=POSITIVE, max_steps=COUNT, train_batch_size=COUNT, seed=SEED)
        check_output_dir(self.output_dir, self.dataset, self.mask_folder, self.backgrounds)
        if self.train_batch_size == 1 and self.backgrounds is None:
            raise ValueError("--train_batch_size 1 leaves no background to swap: give 2 or more, or --backgrounds.")
