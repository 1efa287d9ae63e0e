"""Options of `robust-vit improve`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..diagnosis.options import OwnImagesOptions
from ..evaluation.options import PrecisionOptions
from ..training.methods import METHODS
from ..utils.files import check_output_dir
from ..utils.options import COUNT, PERCENT, POSITIVE, SEED, option, output_dir


@dataclass(kw_only=True)
class ImproveOptions(PrecisionOptions, OwnImagesOptions):
    """Mend a model that decides by the background: masks if there are none, new last layers, the choice of one on one half of the
    validation images, and a diagnosis of the result on the other half.

      robust-vit improve --model my-model --dataset photos --output_dir runs/better
      robust-vit improve --model my-model --dataset photos --output_dir runs/better --effort full

    New last layers are made from features of the images and of their objects on other backgrounds; --effort full also finetunes the whole
    model by background swap, without and with the loss on the relevance map. Of these, and of models between them and the one before, those are
    kept whose top-1 on the images as they are falls by at most --max_loss points; the one is chosen that is right on the most objects on
    the backgrounds of other classes, or, among those within one standard error of it, on the most images as they are. The output folder
    is a model, with its card and report.html; or it says that nothing helped. What is complete is skipped when the command is started
    again.
    """

    model: str = option(text="name, folder or Hub id of the model")
    dataset: str = option(
        text="labelled images: class folders, parquet, Hub id, …; masks are made where there are none"
    )
    train_split: str = option("train", "split to train on")
    eval_split: str = option(
        "validation",
        "split of the selection and test images, one half each; where it is missing, a third of the training images is held out",
    )
    effort: Literal["minute", "full"] = option(
        "minute",
        "`minute` (the default): a new last layer alone, from features that are computed once; `full`: finetuning too, from your model and "
        "from the one with the new layer, which takes many minutes",
    )
    method: str | None = option(
        None,
        "for --effort full: train this method with its defaults, from the same models, instead of background swap; new last layers stay "
        "candidates",
        choices=METHODS,
    )
    backgrounds: str | None = option(
        None,
        "folder of pictures without objects of the classes, as backgrounds of the swap; by default those of your images",
    )
    learning_rates: list[float] = option([1e-5, 3e-5], "learning rates to try (default: 1e-5 3e-5)", POSITIVE)
    max_steps: int = option(
        240,
        "steps of a training (default: 240); all candidates together take less than four times as many at the default rates",
        COUNT,
    )
    max_loss: float = option(
        1.0,
        "points of top-1 that the images as they are may lose, rounded up to whole images (default: 1)",
        PERCENT,
    )
    train_batch_size: int = option(8, "images of a step (default: 8)", COUNT)
    only_these_classes: bool = option(
        False,
        "cut the model's head to the classes that have images, first of all; changes are measured from there. By default, the model keeps "
        "its other classes, whose weights new layers leave as they are",
    )
    seed: int = option(0, "of the splits, the order of the images and the swap", SEED)
    output_dir: Path = output_dir()

    def __post_init__(self):
        super().__post_init__()
        if self.method is not None and self.effort == "minute":
            raise ValueError("--method is trained with --effort full alone: give it too")
        check_output_dir(self.output_dir, self.dataset, self.mask_folder, self.backgrounds)
        swaps = self.method in (None, "swap")
        if self.backgrounds is not None and not swaps:
            raise ValueError("--backgrounds are those of the swap: leave out --method")
        if self.train_batch_size == 1 and swaps and self.backgrounds is None:
            raise ValueError(
                "--train_batch_size 1: the swap takes the background of another image of the batch. Give 2 or more, or --backgrounds."
            )
