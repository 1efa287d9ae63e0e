"""Gains of new last layers if half of the classes are shown.

    python -m experiments last_layer --output_dir runs/last-layer --bf16

For the five models of the experiment's tests, and their images: two of each of 48 classes to train on, four of each of
the others to choose on, and tests whose classes are those shown and the others, apart. Features are computed once,
with 12 composites of each training image by its true mask; all layers are made from them. The models are in
`runs/emoji-bias-10` and so on, as experiments/Makefile trains them. The criterion of bounded_choice.py chooses among
the layers of a kind on the model's own validation images. Writes last_layer.parquet: top-1 in per cent, by seed; and
next to the features, a model with the layer that is fitted to the original's output, from which LP-FT begins.
"""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch

from robust_vit_hf.data.emoji_shift import load_finetuning_splits, load_split, training_classes
from robust_vit_hf.data.transforms import input_size
from robust_vit_hf.evaluation.other_backgrounds import Outputs, composite_outputs
from robust_vit_hf.evaluation.session import Session, open_session
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.improvement.candidates import (
    INTERPOLATION_WEIGHTS,
    VALIDATION_COMPOSITES,
    Layer,
    new_layers,
)
from robust_vit_hf.models.last_layer import LastLayer
from robust_vit_hf.utils.environment import environment

from ..scripts import script_parser
from ..sweeps.bounded_choice import Setting, choose_setting
from .outcomes import read_outcomes, write_outcomes


SEEDS = range(10, 15)  # of images and models, as in experiments/grids/emoji-shift.yaml
COMPOSITES = 12  # of a training image
TESTS, TEST_IMAGES = ("val", "background_new", "background_random"), 300
MAX_LOSS = 1.0  # point
Layers = dict[str, Layer]  # by name


def choose_layer(own: Layer, layers: Layers, selection: Outputs) -> tuple[Layer, str]:
    """The layer between the model's own and a new one that the criterion of bounded_choice.py chooses by the features
    of selection images, and how it was made."""
    before = Setting.of(selection.mapped(own.logits))
    candidates = [
        Setting.of(selection.mapped(own.interpolated(layer, weight).logits), name=name, weight=weight)
        for name, layer in layers.items()
        for weight in INTERPOLATION_WEIGHTS
    ]
    best = choose_setting([before, *candidates], before, MAX_LOSS)
    return own.interpolated(layers[best.name], best.weight) if best.weight else own, f"{best.name}, {best.weight:g}"


def top1(tests: dict[str, Outputs], layer: Layer, shown_classes: Sequence[int]) -> dict[str, float]:
    """Top-1 on the tests, and of shown and other classes on new backgrounds, in per cent."""
    values = {}
    for name, found in tests.items():
        right, shown = found.mapped(layer.logits).right()["original"], np.isin(found.labels, shown_classes)
        values[name] = 100 * right.mean()
        if name == "background_new":
            values |= {f"{name}, shown": 100 * right[shown].mean(), f"{name}, others": 100 * right[~shown].mean()}
    return {name: round(float(value), 2) for name, value in values.items()}


def measured(session: Session, folder: Path, seed: int) -> dict[str, dict]:
    """Top-1 before, and of what the criterion chooses among the layers of `improve` and its fits to the output, of which
    the choice is written to the folder."""
    side = session.sides["before"]
    last = LastLayer(side.model.eval(), input_size(side.processor))
    own = Layer(*(values.double().numpy() for values in (last.weight, last.bias)))
    splits = load_finetuning_splits(2, seed, seed)

    def outputs(name: str, rows: datasets.Dataset, count: int) -> Outputs:
        return composite_outputs(side, session.with_sets({name: EvaluationSet.of(rows)}), count, last)

    train = outputs("train", splits["train"], COMPOSITES)
    selection = outputs("selection", splits["validation"], VALIDATION_COMPOSITES)
    tests = {name: outputs(name, load_split(name, TEST_IMAGES, seed), 0) for name in TESTS}
    layers = dict(new_layers(own, train, last.has_bias))
    made = {"before": top1(tests, own, training_classes(seed))}
    for title, kind in {"as `improve`": "", "fit to the output": "output"}.items():
        of_kind = {name: layer for name, layer in layers.items() if name.partition(", penalty")[0].endswith(kind)}
        chosen, name = choose_layer(own, of_kind, selection)
        made[title] = top1(tests, chosen, training_classes(seed)) | {"chosen": name}
    last.replace(*(torch.from_numpy(values).float() for values in (chosen.weight, chosen.bias)))
    side.model.save_pretrained(folder)
    side.processor.save_pretrained(folder)
    return made


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    arguments = parser.parse_args()
    file = arguments.output_dir / "last_layer.parquet"
    results, _ = read_outcomes(file)
    for seed in (seed for seed in SEEDS if f"{seed}/before" not in results):
        folder = arguments.output_dir / str(seed)
        model = f"runs/emoji-bias-{seed}", None, "paper"
        with open_session(*model, folder, bf16=arguments.bf16) as session:
            made = measured(session, folder / "fitted", seed)
        print(seed, *(f"{name}: {values}" for name, values in made.items()), sep="\n", flush=True)
        results |= {f"{seed}/{name}": values for name, values in made.items()}
        write_outcomes(file, results, environment())
