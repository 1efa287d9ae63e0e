"""The strip of images in all conditions, with predictions in colours, and the file of these images for the app."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from PIL import Image
from pyarrow import parquet as pq
from torchvision.transforms.v2.functional import to_pil_image
from transformers import default_data_collator

from ..data.background_edits import CONDITIONS
from ..data.schema import may_be_shown
from ..data.transforms import denormalize, eval_transform, pixel_levels
from ..evaluation.other_backgrounds import KINDS, WithDonors, composites_of
from ..evaluation.session import Session, TransformedRows
from ..utils.files import atomic_file
from ..utils.images import plain, to_webp
from .verdict import MAP_MEASURES, AttributeDiagnosis, Diagnosis, outcomes


NUM_EXAMPLES = 6  # images in the strip
EXAMPLES_FILE = "examples.parquet"
NUM_COMPOSED = 24  # images in the file; the first are those of the strip
RULE = f"{NUM_EXAMPLES} images drawn at random (seed 0) among those measured on other backgrounds"
NUM_TAKEN = 20
TAKEN_FILE = "follows_background.csv"
TAKEN_RULE = (
    f"At most {NUM_TAKEN} images that are predicted correctly in the original and on another background of their "
    "class, but on the background of another class as that class. Those with the least relevance (or LayerCAM) on the "
    "object come first."
)
COLOURS = {"right": "#1a7f37", "taken": "#b3261e", "other": "#57606a"}  # by kind of prediction, see [`Composed.kind`]
_PICTURES = {name: datasets.Image() for name in CONDITIONS}


@dataclass(frozen=True)
class Composed:
    """An image in all conditions, or with all attributes, as the model sees it.

    Args:
        label, donor: names of the image's class, and of the class of its donor in `mixed_rand`.
        predicted: names of the predicted class by side and condition; `None` if the image could not be composed.
    """

    label: str
    donor: str
    pictures: dict[str, Image.Image]
    predicted: dict[str, dict[str, str | None]]

    def kind(self, side: str, condition: str) -> Literal["right", "taken", "other"]:
        """Whether a prediction is `right`, the class of the donor (`taken`), or another class."""
        predicted = self.predicted[side][condition]
        if predicted == self.label:
            return "right"
        return "taken" if condition.endswith("_rand") and predicted == self.donor else "other"


def drawn_rows(dataset: datasets.Dataset, diagnosis: Diagnosis) -> list[int]:
    """Row numbers of at most `NUM_COMPOSED` images, drawn at random. The first are those of [`RULE`]."""
    usable = ~np.isnan(diagnosis.values["donor_rate"]) & may_be_shown(dataset)
    return np.random.default_rng(0).permutation(np.flatnonzero(usable))[:NUM_COMPOSED].tolist()


def composed_images(
    session: Session,
    dataset: datasets.Dataset,
    diagnoses: Mapping[str, Diagnosis | AttributeDiagnosis],
    drawn: Sequence[int],
) -> list[Composed]:
    """The images of these rows as the first model sees them, in all conditions or with attributes of others."""
    if not drawn:
        return []
    first, processor = next(iter(diagnoses.values())), session.sides["before"].processor
    pairs = TransformedRows(dataset.select_columns(["image", "mask"]), eval_transform(processor))
    donors = {kind: np.asarray(first.columns[f"donor_{kind}"]) for kind in KINDS}
    edits = (["original"], first.names) if isinstance(first, AttributeDiagnosis) else ()
    batch = default_data_collator(WithDonors(pairs, donors).__getitems__([*drawn]))
    images = {
        composite.name: composite.pictures(batch, pixel_levels(processor)) for composite in composites_of(*edits)
    }
    pictures = {name: denormalize(of_condition, processor) for name, of_condition in images.items()}
    names = dict(enumerate(session.classes))  # -1, of images that could not be composed, has no name
    return [
        Composed(
            names[first.columns["label"][row]],
            names[first.columns["donor_class"][row]],
            {name: to_pil_image(of_condition[place]) for name, of_condition in pictures.items()},
            {side: {name: names.get(of.columns[name][row]) for name in images} for side, of in diagnoses.items()},
        )
        for place, row in enumerate(drawn)
    ]


def taken_rows(diagnosis: Diagnosis) -> list[int]:
    values, columns = diagnosis.values, diagnosis.columns  # those of the first donors, which are shown
    taken = ~np.isnan(values["donor_rate"]) & np.equal(columns["mixed_rand"], columns["donor_class"])
    taken &= (values["original"] == 1) & (outcomes(columns, "mixed_same") == 1)
    rows = np.flatnonzero(taken)
    on_object = next(values[name] for name in MAP_MEASURES if name in values)
    return rows[np.argsort(on_object[rows], kind="stable")][:NUM_TAKEN].tolist()


def strip_figure(examples: Sequence[Composed]) -> Figure:
    """A row for each image. Right predictions are green, and those of the class of the background are red."""
    sides, width = list(examples[0].predicted), 1.4  # width of a picture, in inches
    conditions = [*examples[0].pictures]
    first = next(iter(examples[0].pictures.values()))  # all pictures have the same size
    height = width * first.height / first.width
    pitch = height + 0.25 + 0.12 * len(sides)  # height of a row, with a line above and one for each side below
    figure = Figure((0.3 + (width + 0.1) * len(conditions), 0.15 + pitch * len(examples)))
    # One axis, in inches from the top left: separate axes for the pictures take ten times as long to draw.
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0))
    axis.axis("off")
    for row, example in enumerate(examples):
        top = 0.35 + pitch * row
        axis.text(0.15, top + height / 2, plain(example.label), fontsize=8, rotation=90, ha="center", va="center")
        for column, name in enumerate(conditions):
            left = 0.3 + (width + 0.1) * column
            middle = left + width / 2
            if any(example.predicted[side][name] is not None for side in sides):
                axis.imshow(example.pictures[name], extent=(left, left + width, top + height, top))
            for line, side in enumerate(sides):
                predicted, colour = example.predicted[side][name] or "–", COLOURS[example.kind(side, name)]
                text = plain(f"{side}: {predicted}" if len(sides) > 1 else predicted)
                below = top + height + 0.03 + 0.12 * line
                axis.text(middle, below, text, fontsize=7, color=colour, ha="center", va="top")
            donor = f"{'on' if name == 'mixed_rand' else 'of'} {example.donor}" if name.endswith("_rand") else ""
            titles = [name if row == 0 else "", plain(donor)]
            axis.text(middle, top - 0.03, "\n".join(filter(None, titles)), fontsize=7, ha="center", va="bottom")
    return figure


def save_composed(examples: Sequence[Composed], path: Path) -> None:
    """Write images in all conditions to a parquet file for `datasets`, with the predicted classes."""
    rows = []
    for example in examples:
        row: dict[str, Any] = {"label": example.label, "donor": example.donor}
        row |= {name: to_webp(picture) for name, picture in example.pictures.items()}
        for side, predicted in example.predicted.items():
            row |= {f"{side}_{name}": best for name, best in predicted.items()}
        rows.append(row)
    texts = {name: datasets.Value("string") for name in rows[0] if name not in _PICTURES}
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, datasets.Features(texts | _PICTURES).arrow_schema), partial)


def load_composed(path: Path) -> list[Composed]:
    examples, decode = [], datasets.Image(mode="RGB").decode_example
    for row in pq.read_table(path).to_pylist():
        sides = [name.removesuffix("_original") for name in row if name.endswith("_original")]
        pictures = {name: decode(row[name]) for name in CONDITIONS}
        predicted = {side: {name: row[f"{side}_{name}"] for name in CONDITIONS} for side in sides}
        examples.append(Composed(row["label"], row["donor"], pictures, predicted))
    return examples
