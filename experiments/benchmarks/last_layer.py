"""Gains of new last layers if half of the classes are shown, and of layers that are made otherwise.

    python -m experiments last_layer --output_dir runs/last-layer --bf16

For the five models of the experiment's tests, and their images: two of each of 48 classes to train on, four of each of
the others to choose on, and tests whose classes are those shown and the others, apart. Features are computed once,
with 12 composites of each training image by its true mask; all layers are made from them. The models are in
`runs/emoji-bias-10` and so on, as experiments/Makefile trains them. The criterion of bounded_choice.py chooses among
the layers of a kind on the model's own validation images. Writes last_layer.parquet: top-1 in per cent, by seed; and
next to the features, a model with the layer that is fitted to the original's output, from which LP-FT begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torchvision.transforms.v2 import functional

from robust_vit_hf.data.background_edits import background
from robust_vit_hf.data.emoji_shift import load_finetuning_splits, load_split, training_classes
from robust_vit_hf.data.transforms import eval_transform, input_size
from robust_vit_hf.evaluation.other_backgrounds import Outputs, composite_outputs
from robust_vit_hf.evaluation.session import Session, open_session
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.improvement.candidates import (
    INTERPOLATION_WEIGHTS,
    MAP_PENALTIES,
    VALIDATION_COMPOSITES,
    Layer,
    fit_layer,
    map_out_background,
    new_layers,
)
from robust_vit_hf.models.last_layer import LastLayer
from robust_vit_hf.training.methods.augmentations import load_backgrounds
from robust_vit_hf.utils.environment import environment

from ..scripts import script_parser
from ..sweeps.bounded_choice import Setting, choose_setting
from .digits import texture
from .outcomes import read_outcomes, write_outcomes


SEEDS = range(10, 15)  # of images and models, as in experiments/grids/emoji-shift.yaml
COMPOSITES = 12  # of a training image
TESTS, TEST_IMAGES = ("val", "background_new", "background_random"), 300
MAX_LOSS = 1.0  # point
Layers = dict[str, Layer]  # by name


def moved(rows: datasets.Dataset) -> datasets.Dataset:
    """Each image and mask turned over at random, and moved and scaled at random, with its borders repeated."""
    rng = np.random.default_rng(0)

    def move(row: dict) -> dict:
        flip, scale = rng.random() < 0.5, float(rng.uniform(0.7, 1.1))
        shift = [int(pixels) for pixels in rng.integers(-16, 17, 2)]
        image, mask = row["image"].convert("RGB"), row["mask"]
        if flip:
            image, mask = functional.hflip(image), functional.hflip(mask)
        return {
            "image": functional.affine(image, 0.0, shift, scale, [0.0]),
            "mask": functional.affine(mask, 0.0, shift, scale, [0.0]),
        }

    return rows.map(move, features=rows.features)


def softened(rows: datasets.Dataset) -> datasets.Dataset:
    """Each image with a mask that has a soft border around the object; narrow, since the median of a mask must be
    high."""
    blur = ImageFilter.GaussianBlur(1)

    def soften(row: dict) -> dict:
        border = row["mask"].filter(blur).point(lambda level: level if level > 60 else 0)
        return {"mask": ImageChops.lighter(row["mask"], border)}

    return rows.map(soften, features=rows.features)


def write_recoloured(rows: datasets.Dataset, folder: Path) -> None:
    """The background of each image, with its object filled, its colours exchanged, and some inverted."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        image = functional.to_dtype(functional.pil_to_tensor(row["image"].convert("RGB")), scale=True)[None]
        mask = (functional.pil_to_tensor(row["mask"].convert("L")) > 127).float()[None]
        picture = background(image, mask)[0][rng.permutation(3).tolist()] ** float(rng.uniform(0.5, 2))
        picture = 1 - picture if rng.random() < 0.3 else picture
        functional.to_pil_image(picture.clamp(0, 1)).save(folder / f"{number:04}.png")


def write_textures(rows: datasets.Dataset, folder: Path) -> None:
    """As many textures of random colours, scales and directions as there are images."""
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(rows)):
        Image.fromarray((255 * texture(1000 + number, rng)).astype(np.uint8)).save(folder / f"{number:04}.png")


def choose_layer(
    own: Layer,
    layers: Layers,
    selection: Outputs,
    weights: Sequence[float] = INTERPOLATION_WEIGHTS,
    max_loss: float = MAX_LOSS,
) -> tuple[Layer, str]:
    """The layer between the model's own and a new one that the criterion of bounded_choice.py chooses by the features
    of selection images, and how it was made."""
    before = Setting.of(selection.mapped(own.logits))
    candidates = [
        Setting.of(selection.mapped(own.interpolated(layer, weight).logits), name=name, weight=weight)
        for name, layer in layers.items()
        for weight in weights
    ]
    best = choose_setting([before, *candidates], before, max_loss)
    return own.interpolated(layers[best.name], best.weight) if best.weight else own, f"{best.name}, {best.weight:g}"


class Features:
    """Features of a model for the images of a seed."""

    def __init__(self, session: Session, folder: Path, seed: int):
        self.session, self.folder, self.side = session, folder, session.sides["before"]
        self.last = LastLayer(self.side.model.eval(), input_size(self.side.processor))
        self.own = Layer(*(values.double().numpy() for values in (self.last.weight, self.last.bias)))
        self.shown = training_classes(seed)
        splits = load_finetuning_splits(2, seed, seed)
        self.images = splits["train"]
        self.train = self.of("train", self.images, COMPOSITES)
        self.selection = self.of("selection", splits["validation"], VALIDATION_COMPOSITES)
        self.tests = {name: self.of(name, load_split(name, TEST_IMAGES, seed), 0) for name in TESTS}

    def of(self, name: str, rows: datasets.Dataset, count: int, pool: datasets.Dataset | None = None) -> Outputs:
        one = self.session.with_sets({name: EvaluationSet.of(rows)})
        return composite_outputs(self.side, one, count, self.last, pool)

    def layers(self, features: Outputs) -> Layers:
        """The new layers of `improve`."""
        return dict(new_layers(self.own, features, self.last.has_bias))

    def of_rule(self, layers: Layers, weights: Sequence[float] = INTERPOLATION_WEIGHTS) -> dict[str, float | str]:
        """Top-1 of what the criterion chooses, in per cent."""
        layer, name = choose_layer(self.own, layers, self.selection, weights)
        return self.top1(layer) | {"chosen": name}

    def save(self, layer: Layer) -> None:
        """Write the model with another last layer."""
        self.last.replace(*(torch.from_numpy(values).float() for values in (layer.weight, layer.bias)))
        self.side.model.save_pretrained(self.folder.with_name("fitted"))
        self.side.processor.save_pretrained(self.folder.with_name("fitted"))

    def top1(self, layer: Layer) -> dict[str, float]:
        """Top-1 on the tests, and of shown and other classes on new backgrounds, in per cent."""
        values = {}
        for name, found in self.tests.items():
            right, shown = found.mapped(layer.logits).right()["original"], np.isin(found.labels, self.shown)
            values[name] = 100 * right.mean()
            if name == "background_new":
                values |= {f"{name}, shown": 100 * right[shown].mean(), f"{name}, others": 100 * right[~shown].mean()}
        return {name: round(float(value), 2) for name, value in values.items()}


def of_kind(layers: Layers, kind: str) -> Layers:
    """Layers of the `map`, or fitted to the `output`."""
    return {name: layer for name, layer in layers.items() if name.partition(", penalty")[0].endswith(kind)}


def variants(found: Features, own: Layers) -> Iterator[tuple[str, dict]]:
    """Layers of `improve`, those of a kind, and layers made otherwise, each chosen from by the criterion."""

    half = COMPOSITES // 2

    def beside(others: Outputs) -> dict:
        """Half of the composites as they are, and half made otherwise."""
        mixed = np.concatenate([found.train.mixed[:, :half], others.mixed], axis=1)
        return found.of_rule(found.layers(replace(found.train, mixed=mixed)))

    yield "before", found.top1(found.own)
    yield "as `improve`", found.of_rule(own)
    yield "map", found.of_rule(of_kind(own, "map"))
    yield "fit to the output", found.of_rule(of_kind(own, "output"))
    for count in (1, 2, 4, 8):
        fewer = replace(found.train, mixed=found.train.mixed[:, :count])
        yield f"{count} composites", found.of_rule(found.layers(fewer))
    yield "half of 12 composites moved, scaled, flipped", beside(found.of("moved", moved(found.images), half))
    yield "half of 12 composites with soft edges", beside(found.of("softened", softened(found.images), half))
    for name, write in {"recoloured": write_recoloured, "textures": write_textures}.items():
        if not (pictures := found.folder / name).is_dir():
            write(found.images, pictures)
        pool = load_backgrounds(str(pictures), eval_transform(found.side.processor))
        yield f"half of 12 composites on {name}", beside(found.of(f"on-{name}", found.images, half, pool))
    yield "only at interpolation weight 1", found.of_rule(own, (1.0,))
    yield "map, then fit to the output", found.of_rule(dict(map_then_fit(found)))
    width = found.own.weight.shape[1] // 2
    for name, part in {"CLS token": slice(width), "mean of the patches": slice(width, None)}.items():
        yield f"map of the {name} alone", found.of_rule(dict(map_of_part(found, part)))
    yield "mean of the maps", found.of_rule(mean_layer(of_kind(own, "map")))


def map_then_fit(found: Features) -> Iterator[tuple[str, Layer]]:
    outputs = torch.from_numpy(found.own.logits(found.train.original.astype(float))).softmax(dim=1).numpy()
    for penalty in (3.0, 10.0):
        start = map_out_background(found.own, found.train, penalty, found.last.has_bias)
        for distance in (1e-5, 1e-4):
            name = f"map {penalty:g}, then output, penalty {distance:g}"
            yield name, fit_layer(start, found.train, outputs, distance)


def map_of_part(found: Features, part: slice) -> Iterator[tuple[str, Layer]]:
    """Maps of a part of the features, which leave the others as they are."""
    features = replace(found.train, original=found.train.original[:, part], mixed=found.train.mixed[..., part])
    own = Layer(found.own.weight[:, part], np.zeros_like(found.own.bias))
    for penalty in MAP_PENALTIES:
        mapped, weight = map_out_background(own, features, penalty, found.last.has_bias), found.own.weight.copy()
        weight[:, part] = mapped.weight
        yield f"map, penalty {penalty:g}", Layer(weight, found.own.bias + mapped.bias)


def mean_layer(layers: Layers) -> Layers:
    weight, bias = (np.mean(parts, axis=0) for parts in zip(*layers.values(), strict=True))
    return {"mean": Layer(weight, bias)}


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
            found = Features(session, folder / "features", seed)
            layers = found.layers(found.train)
            made = dict(variants(found, layers))
            found.save(choose_layer(found.own, of_kind(layers, "output"), found.selection)[0])
        print(seed, *(f"{name}: {values}" for name, values in made.items()), sep="\n", flush=True)
        results |= {f"{seed}/{name}": values for name, values in made.items()}
        write_outcomes(file, results, environment())
