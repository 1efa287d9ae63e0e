"""Draw objects of emoji-shift on five other backgrounds, with the predictions of two models: the picture of the README.

    python trainer/draw_backgrounds.py emoji-shift runs/own/better docs/five_backgrounds.png

Objects and backgrounds are drawn at random (seed 0) from 300 images of `val`, with openly licensed artwork alone.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from robust_vit_hf.data.composition import background, paste
from robust_vit_hf.data.emoji_shift.compose_images import CLASS_NAMES, load_split
from robust_vit_hf.data.label_mapping import classes_of_model
from robust_vit_hf.data.transforms import eval_transform
from robust_vit_hf.evaluation.before_after_examples import may_be_shown
from robust_vit_hf.models.image_processors import load_processor
from robust_vit_hf.models.loading import load_model
from robust_vit_hf.relevance.overlay import denormalize
from robust_vit_hf.utils.plotting import PICTURE_AXES


OBJECTS, BACKGROUNDS = 3, 5


def main(before: str, after: str, path: Path) -> None:
    rows = load_split("val", 300)
    rows = rows.select(np.flatnonzero(may_be_shown(rows)))
    models = {"before": load_model(before).eval(), "after": load_model(after).eval()}
    processor = load_processor(before, "paper", models["before"])
    rng = np.random.default_rng(0)
    figure = Figure((1.5 * (BACKGROUNDS + 1), 2.05 * OBJECTS), layout="constrained")
    axes = figure.subplots(OBJECTS, BACKGROUNDS + 1, subplot_kw=PICTURE_AXES)
    for of_object, drawn in zip(
        axes, rng.permutation(len(rows))[: OBJECTS * (BACKGROUNDS + 1)].reshape(OBJECTS, -1), strict=True
    ):
        batch = rows.with_transform(eval_transform(processor))[drawn.tolist()]
        images, masks = torch.stack(batch["pixel_values"]), torch.stack(batch["mask"])
        shown = torch.cat([images[:1], paste(images[:1], masks[:1], background(images[1:], masks[1:]))])
        label = CLASS_NAMES[batch["labels"][0]]
        with torch.no_grad():
            best = {side: model(shown).logits.argmax(dim=1).tolist() for side, model in models.items()}
        for place, (axis, picture) in enumerate(zip(of_object, denormalize(shown, processor), strict=True)):
            axis.imshow(picture.permute(1, 2, 0).numpy())
            for line, (side, classes) in enumerate(best.items()):
                name = classes_of_model(models[side].config)[classes[place]]
                axis.text(
                    0.5, -0.04 - 0.13 * line, f"{side}: {name}", transform=axis.transAxes, ha="center", va="top",
                    fontsize=8, color="#1a7f37" if name == label else "#b3261e",
                )  # fmt: skip
            axis.set_title("the image" if place == 0 else "", fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
