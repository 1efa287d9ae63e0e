"""Draw objects of emoji-shift on five other backgrounds, with the predictions of two models: the picture of the
README.

    python -m experiments draw_backgrounds emoji-shift runs/own/better docs/five_backgrounds.png

Objects and backgrounds are drawn at random from 300 images of `val`, only with openly licensed artwork: the first draw
in which both models are right as often as on the test images of `improve` (`mixed_rand` in
`runs/own/better/diagnosis/results.json`).
"""

import itertools
from pathlib import Path

import datasets
import numpy as np
import torch
from matplotlib.figure import Figure

from robust_vit_hf.data.background_edits import background, paste
from robust_vit_hf.data.classes import classes_of_model
from robust_vit_hf.data.emoji_shift import load_split
from robust_vit_hf.data.schema import may_be_shown
from robust_vit_hf.data.transforms import denormalize, eval_transform
from robust_vit_hf.diagnosis.example_strip import COLOURS
from robust_vit_hf.models.image_processors import load_processor
from robust_vit_hf.models.loading import load_model
from robust_vit_hf.utils.files import read_json
from robust_vit_hf.utils.images import PICTURE_AXES

from ..scripts import script_parser


OBJECTS, BACKGROUNDS = 3, 5


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("before", help="model folder or name")
    parser.add_argument("after", help="output folder of `robust-vit improve`")
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    draw_backgrounds(arguments.before, arguments.after, arguments.picture)


def draw_backgrounds(before: str, after: str, path: Path) -> None:
    rows = load_split("val", 300)
    rows = rows.select(np.flatnonzero(may_be_shown(rows)))
    models = {"before": load_model(before).eval(), "after": load_model(after).eval()}
    processor = load_processor(before, "paper", models["before"])
    rows = rows.with_transform(eval_transform(processor))
    measured = read_json(Path(after, "diagnosis", "results.json"))["diagnosis"]
    wanted = [round(OBJECTS * BACKGROUNDS * measured[side]["measures"]["mixed_rand"]["mean"]) for side in models]
    for seed in itertools.count():
        drawn = np.random.default_rng(seed).permutation(len(rows))[: OBJECTS * (BACKGROUNDS + 1)]
        pictures, labels = on_backgrounds(rows, drawn.reshape(OBJECTS, -1))
        with torch.no_grad():
            best = {
                side: model(pictures.flatten(0, 1)).logits.argmax(dim=1).unflatten(0, (OBJECTS, -1))
                for side, model in models.items()
            }
        if [int((ids[:, 1:] == labels[:, :1]).sum()) for ids in best.values()] == wanted:
            break
    figure = Figure((1.5 * (BACKGROUNDS + 1), 2.05 * OBJECTS), layout="constrained")
    axes = figure.subplots(OBJECTS, BACKGROUNDS + 1, subplot_kw=PICTURE_AXES)
    names = classes_of_model(models["before"].config)
    for row, column in np.ndindex(axes.shape):
        axis = axes[row, column]
        axis.imshow(denormalize(pictures[row, column : column + 1], processor)[0].permute(1, 2, 0).numpy())
        for line, (side, ids) in enumerate(best.items()):
            predicted = int(ids[row, column])
            kind = "right" if predicted == labels[row, 0] else "taken" if predicted == labels[row, column] else "other"
            axis.text(
                0.5, -0.04 - 0.13 * line, f"{side}: {names[predicted]}", transform=axis.transAxes, ha="center",
                va="top",
                fontsize=8, color=COLOURS[kind],
            )  # fmt: skip
        axis.set_title("the image" if column == 0 else "", fontsize=8)
    figure.savefig(path, dpi=110)


def on_backgrounds(rows: datasets.Dataset, drawn: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(O, 1 + B, 3, H, W)`: the first of each row, and its object on the backgrounds of the others; and labels
    `(O, 1 + B)`."""
    pictures, labels = [], []
    for indices in drawn.tolist():
        batch = rows[indices]
        images, masks = torch.stack(batch["pixel_values"]), torch.stack(batch["mask"])
        pictures.append(torch.cat([images[:1], paste(images[:1], masks[:1], background(images[1:], masks[1:]))]))
        labels.append(batch["labels"])
    return torch.stack(pictures), torch.tensor(labels)
