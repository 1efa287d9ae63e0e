"""Options of `robust-vit improve`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..diagnosis.options import OwnImagesOptions
from ..utils.files import check_output_dir
from ..utils.options import COUNT, POSITIVE, SEED, SHARE, option, output_dir


SHARES = (0.05, 0.1, 0.25, 0.5)  # of other backgrounds, if the user names none


@dataclass(kw_only=True)
class ImproveOptions(OwnImagesOptions):
    """Make a model decide less by the background, from labelled photographs; masks are made where there are none.

    New last layers are fitted to features of the training images and of their objects on other backgrounds; --effort
    full also finetunes all layers with swapped backgrounds. Of these models, your model and interpolations between
    them, the best on composites that loses no top-1 on the validation images is written to the output folder, with its
    card and report.html, if it is better. If not, there is only the report, and the candidate in `candidates/`.

      robust-vit improve --model my-model --dataset photographs --output_dir runs/better
      robust-vit improve --model my-model --dataset photographs --output_dir runs/better --effort full
    """

    model: str = option(text="name, folder or Hub id of the model")
    dataset: str = option(text="labelled images: class folders, parquet, Hub id, …; masks are made if there are none")
    train_split: str = option("train", "split to train on")
    eval_split: str = option("validation", "split to choose and measure on")
    hold_out: float = option(
        1 / 3, "share of each class of `train` that is `validation`, if there is none (default: 1/3)", within=SHARE
    )
    other_backgrounds: float | None = option(
        None,
        "share of your photographs that will have other backgrounds than usual (default: the report compares four)",
        within=SHARE,
    )
    effort: Literal["quick", "full"] = option(
        "quick", "`quick`: only a new last layer; `full`: also finetune all layers, which takes many minutes"
    )
    backgrounds: str | None = option(
        None, "folder of backgrounds to train on, without objects of the classes (default: those of your images)"
    )
    learning_rate: float | None = option(
        None, "learning rate of the training (default: set by the size of the model's weights)", within=POSITIVE
    )
    max_steps: int = option(240, "steps of the training", within=COUNT)
    train_batch_size: int = option(8, "batch size of the training", within=COUNT)
    only_these_classes: bool = option(False, "first remove the classes without images (default: keep their weights)")
    fail_if: Literal["worse"] | None = option(None, "exit with status 3 if the new model is `worse`")
    seed: int = option(0, "seed of the splits, the order of the images and the swap", within=SEED)
    output_dir: Path = output_dir()

    def __post_init__(self):
        super().__post_init__()
        check_output_dir(self.output_dir, self.dataset, self.mask_folder, self.backgrounds)
        if self.train_batch_size == 1 and self.backgrounds is None:
            raise ValueError("--train_batch_size 1 leaves no background to swap: give 2 or more, or --backgrounds.")

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of other backgrounds that the verdict is about. The model is chosen for the last."""
        return SHARES if self.other_backgrounds is None else (self.other_backgrounds,)
