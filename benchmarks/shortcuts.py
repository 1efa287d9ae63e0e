"""Whether `diagnose --attributes` finds and names what a model was taught to decide by.

    python benchmarks/shortcuts.py --output_dir runs/shortcuts --bf16               # last layers
    python benchmarks/shortcuts.py --output_dir runs/shortcuts --bf16 --finetuned   # whole models

An attribute is planted: each class has a habitual value of it in 100 or 95 % of the images, and a random one in the others. A
classifier is trained on them: the last layer of a DINOv2-S (logistic regression), or all of it. Objects are sixteen drawings of
emoji-shift on photographs, or handwritten digits on textures; backgrounds are random unless they are what is planted. Masks are the
true ones. With --mend, `improve`'s new last layers are made for what was named, and top-1 with the attribute at random is measured before and
after (three times as long). Prints what was planted × what was named, and writes shortcuts.json, anew after each model; what is in it is not measured again.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import torch
from own_images import texture
from PIL import Image, ImageFilter
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import PreTrainedModel, ViTImageProcessor

from robust_vit_hf.data.attributes import ATTRIBUTES
from robust_vit_hf.data.emoji_shift import artwork
from robust_vit_hf.diagnosis.attribute_verdict import AttributeDiagnosis
from robust_vit_hf.evaluation.measurements.base import measure
from robust_vit_hf.evaluation.measurements.other_attributes import Attributes
from robust_vit_hf.evaluation.session import Session, Side
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.improvement.candidates import choose_cheapest
from robust_vit_hf.improvement.new_layers import NewLayers
from robust_vit_hf.models.emoji_shift_model import load_backbone
from robust_vit_hf.models.last_layer import LastLayer
from robust_vit_hf.results.markdown_latex import Table
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json
from robust_vit_hf.utils.processes import make_accelerator


SPLITS = ("train", "validation", "random")
SIZE, DIGITS = 84, load_digits()
COST = 0.1  # of the attribute drawn at random, from which on it should be named
IMAGES = {
    "emoji": {"train": 20, "validation": 10, "random": 10},
    "digits": {"train": 30, "validation": 16, "random": 16},
}  # a class
PLANTED = ("none", "background", "border", "corners", "colours", "sharpness", "compression", "place")
PLACES, MAX_LOSS = {"home": "validation", "random": "random"}, 2.0  # splits; points of top-1 that may be lost at home
UNTOLD = "compression"  # no attribute of `diagnose`
LEVELS = {"sharpness": 4, "compression": 4, "place": 4}  # habitual values; of the others, one for each class


def emoji(label: int, number: int, split: str, rng: np.random.Generator) -> tuple[Image.Image, Callable]:
    """A drawing with alpha, and a function from the number of a background to a crop of it."""
    kind, vendors = tuple(artwork.CLASSES)[6 * label], artwork.TRAINING_VENDORS
    drawing = artwork.emoji(kind, vendors[rng.integers(len(vendors))]).rotate(rng.uniform(-20, 20), expand=True)
    drawing = drawing.crop(drawing.getchannel("A").getbbox())

    def background(value: int) -> Image.Image:
        photograph, crop = artwork.background(tuple(artwork.BACKGROUNDS)[value]), int(rng.integers(112, 169))
        left, top = (int(rng.integers(0, length - crop + 1)) for length in photograph.size)
        return photograph.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + crop, top + crop))

    return drawing, background


def digit(label: int, number: int, split: str, rng: np.random.Generator) -> tuple[Image.Image, Callable]:
    """As [`emoji`], of a digit in a random colour, and of a texture. Those of a split are of its own writing."""
    of_class = np.flatnonzero(DIGITS.target == label)
    third = len(of_class) // 3 * SPLITS.index(split)
    strokes = DIGITS.images[of_class[third + number % (len(of_class) // 3)]]
    alpha = np.clip(3 * (ndimage.zoom(strokes / 16, 9, order=1) - 0.4), 0, 1)
    pixels = np.concatenate([np.broadcast_to(rng.random(3), (72, 72, 3)), alpha[..., None]], axis=2)
    drawing = Image.fromarray((255 * pixels).round().astype(np.uint8), "RGBA")
    drawing = drawing.crop(drawing.getchannel("A").getbbox())

    def background(value: int) -> Image.Image:
        return Image.fromarray((255 * texture(value, rng)).round().astype(np.uint8)).resize((SIZE, SIZE))

    return drawing, background


SOURCES = {"emoji": (emoji, 16), "digits": (digit, 10)}  # with the number of classes


def placed(drawing: Image.Image, value: int | None, rng: np.random.Generator) -> tuple[Image.Image, tuple[int, int]]:
    """A drawing in its size, and where it is: anywhere, or, by a value, large or small at the top or bottom."""
    side = rng.uniform(0.35, 0.6) if value is None else (0.35, 0.6)[value % 2] + rng.uniform(-0.03, 0.03)
    factor = side * SIZE / max(drawing.size)
    drawing = drawing.resize([max(1, round(length * factor)) for length in drawing.size], Image.Resampling.BICUBIC)
    free = [SIZE - length for length in drawing.size]
    left, top = (rng.uniform(0, length) for length in free)
    if value is not None:
        top = free[1] * (rng.uniform(0, 0.2) if value < 2 else rng.uniform(0.8, 1))
    return drawing, (round(left), round(top))


def frame(image: Image.Image, value: int, levels: int) -> Image.Image:
    """A border of 7 %, of a colour for each value."""
    width, framed = (
        round(0.07 * SIZE),
        Image.new("HSV", image.size, (255 * value // levels, 150, 90 + 100 * (value % 2))),
    )
    framed = framed.convert("RGB")
    framed.paste(image.crop((width, width, SIZE - width, SIZE - width)), (width, width))
    return framed


def stamp(image: Image.Image, value: int, levels: int) -> Image.Image:
    """A mark of 4×4 black and white squares at the bottom right, a pattern for each value."""
    squares = np.random.default_rng([11, value]).integers(0, 2, (4, 4)).astype(np.uint8) * 255
    mark = Image.fromarray(squares).resize((SIZE // 6,) * 2, Image.Resampling.NEAREST)
    image.paste(mark.convert("RGB"), [SIZE - SIZE // 6 - 3] * 2)
    return image


def cast(image: Image.Image, value: int, levels: int) -> Image.Image:
    """White balance and brightness of a camera, other ones for each value."""
    gains = (
        1
        + 0.45 * np.cos(2 * np.pi * (value / levels + np.arange(3) / 3)) * (1 - 0.4 * (value % 2))
        - 0.2 * (value % 2)
    )
    return Image.fromarray(np.clip(np.asarray(image) * gains, 0, 255).astype(np.uint8))


def blurred(image: Image.Image, value: int, levels: int) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur((0, 0.7, 1.3, 2.2)[value]))


def compressed(image: Image.Image, value: int, levels: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=(95, 25, 10, 4)[value])
    return Image.open(file).convert("RGB")


FINISHES = {"border": frame, "corners": stamp, "colours": cast, "sharpness": blurred, "compression": compressed}


def draw(source: str, planted: str, rate: float, split: str, seed: int) -> list[tuple]:
    """Images, masks and labels. In the split `random`, what is planted is drawn at random."""
    make, classes = SOURCES[source]
    levels, rows = LEVELS.get(planted, classes), []
    for number, label in np.ndindex(IMAGES[source][split], classes):
        rng = np.random.default_rng([seed, SPLITS.index(split), number, label])
        value = label % levels if rng.random() < rate and split != "random" else int(rng.integers(levels))
        drawing, background = make(label, number, split, rng)
        habitual = background(value if planted == "background" else int(rng.integers(classes)))
        drawing, corner = placed(drawing, value if planted == "place" else None, rng)
        mask = Image.new("L", habitual.size)
        mask.paste(drawing.getchannel("A").point(lambda alpha: 255 * (alpha > 127)), corner)
        habitual.paste(drawing, corner, drawing)
        if planted in FINISHES:
            habitual = FINISHES[planted](habitual, value, levels)
        rows.append((habitual, mask, label))
    return rows


def pixels(rows: list[tuple]) -> torch.Tensor:
    """Images `(N, 3, SIZE, SIZE)` as the model expects them."""
    return torch.stack([pil_to_tensor(image) / 127.5 - 1 for image, _, _ in rows])


def outputs(layer: LastLayer, images: torch.Tensor, bf16: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logits and features."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = [layer.outputs(batch) for batch in images.split(64)]
    return tuple(torch.cat(of).float().numpy() for of in zip(*found, strict=True))


def fit_last_layer(model: PreTrainedModel, images: torch.Tensor, labels: np.ndarray, bf16: bool) -> None:
    layer = LastLayer(model, images[:1])
    features = outputs(layer, images, bf16)[1]
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    fitted = LogisticRegression(C=0.01, max_iter=500).fit((features - mean) / spread, labels)
    weight = fitted.coef_ / spread
    layer.replace(*(torch.from_numpy(one).float() for one in (weight, fitted.intercept_ - weight @ mean)))


def finetune(model: PreTrainedModel, images: torch.Tensor, labels: np.ndarray, bf16: bool) -> None:
    """Cross-entropy for 120 steps of 16 images, cosine schedule from 5e-5."""
    fit_last_layer(model, images, labels, bf16)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        drawn = torch.randint(len(images), (16,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model(pixel_values=images[drawn], labels=torch.from_numpy(labels)[drawn]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def model_of(rows: list[tuple], classes: int, finetuned: bool, bf16: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    model = load_backbone()
    model.classifier = torch.nn.Linear(model.classifier.in_features, classes)
    model.config.id2label = {label: f"class {label}" for label in range(classes)}
    model.config.label2id = {name: label for label, name in model.config.id2label.items()}
    model.num_labels = classes
    train = finetune if finetuned else fit_last_layer
    train(model, pixels(rows), np.array([label for _, _, label in rows]), bf16)
    return model.eval()


def images_of(rows: list[tuple], names: list[str]) -> EvaluationSet:
    label = datasets.ClassLabel(names=names)
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image(), "label": label})
    listed = [dict(zip(features, row, strict=True)) for row in rows]
    return EvaluationSet.of(datasets.Dataset.from_list(listed, features=features))


def mended(session: Session, rows: dict[str, list[tuple]], attributes: list[str]) -> PreTrainedModel:
    """The model with the new last layer that `improve` chooses."""
    names, roles = session.classes, {"train": "train", "selection": "validation"}
    of_role = {role: session.with_sets({role: images_of(rows[split], names)}) for role, split in roles.items()}
    with TemporaryDirectory() as folder:
        layers = NewLayers.of(of_role, Path(folder), (64, 0), None, attributes)
        chosen = choose_cheapest([layers.before, *layers.mixtures], layers.before, MAX_LOSS)
        return layers.model(layers.layer(chosen.settings, chosen.alpha))


def top1(model: PreTrainedModel, rows: list[tuple], bf16: bool) -> float:
    logits = outputs(LastLayer(model, pixels(rows[:1])), pixels(rows), bf16)[0]
    return float(np.mean(logits.argmax(axis=1) == [label for _, _, label in rows]))


def run(source: str, planted: str, rate: float, seed: int, arguments: argparse.Namespace) -> dict:
    """Top-1 at home and with the attribute at random, the diagnosis, and maybe top-1 of the mended model."""
    finetuned, bf16 = arguments.finetuned, arguments.bf16
    rows = {split: draw(source, planted, rate, split, seed) for split in SPLITS}
    model = model_of(rows["train"], SOURCES[source][1], finetuned, bf16)
    processor = ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=3 * [0.5], image_std=3 * [0.5], do_center_crop=False
    )
    session = Session({"before": Side.of(model, processor)}, {}, make_accelerator(bf16))
    images = images_of(rows["validation"], session.classes)
    measured = measure(session.with_sets({"images": images}), Attributes(batch_size=64))["images"]["before"]
    found = AttributeDiagnosis(measured.columns, tuple(ATTRIBUTES))
    home = np.mean(np.array(measured.columns["original"]) == np.array(measured.columns["label"]))
    result = {"home": float(home), "random": top1(model, rows["random"], bf16), **found.record()}
    if arguments.mend and found.named:
        better = mended(session, rows, [name for name in found.named if name != "background"])
        result |= {f"{place}_mended": top1(better, rows[split], bf16) for place, split in PLACES.items()}
    return result


def matrix(results: dict[str, dict]) -> Table:
    """How often each attribute was named, by what was planted, where that costs [`COST`] or more; and of nothing planted."""
    heads, rows = [*ATTRIBUTES, "nothing"], []
    for planted in PLANTED:
        counted = [one for key, one in results.items() if f"/{planted}/" in key]
        if planted != "none":
            counted = [one for one in counted if one["home"] - one["random"] >= COST]
        if counted:
            costs = [one["home"] - one["random"] for one in counted]
            named = [sum(name in (one["named"] or ["nothing"]) for one in counted) for name in heads]
            rows.append([planted, str(len(counted)), f"{100 * np.mean(costs):.0f}", *map(str, named)])
    return Table("Planted × named", ["planted", "models", "cost, points", *heads], rows)


def mended_table(results: dict[str, dict]) -> Table:
    """Top-1 before and after, of models of which an attribute was named."""
    rows = []
    for key, one in results.items():
        if "random_mended" in one:
            cells = [f"{100 * one[place]:.1f} → {100 * one[f'{place}_mended']:.1f}" for place in PLACES]
            rows.append([key, ", ".join(one["named"]), *cells])
    return Table("Top-1 before and after", ["model", "named", "home", "attribute at random"], rows)


def summary(results: dict[str, dict]) -> str:
    told = [
        (key.split("/")[1], one)
        for key, one in results.items()
        if UNTOLD not in key and one["home"] - one["random"] >= COST and "/none/" not in key
    ]
    right = sum(one["named"] == [planted] for planted, one in told)
    first = sum(one["named"][:1] == [planted] for planted, one in told)
    alarms = [bool(one["named"]) for key, one in results.items() if "/none/" in key]
    return (
        f"Found and named first, where planting costs {100 * COST:.0f} points or more: {first} of {len(told)}, and nothing else: {right}. "
        f"False alarms where nothing is planted: {sum(alarms)} of {len(alarms)}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--planted", nargs="+", choices=PLANTED, default=PLANTED)
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 0.95])
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5], help="the rules were made on 0 to 2")
    parser.add_argument("--finetuned", action="store_true", help="train whole models, not only their last layer")
    parser.add_argument("--mend", action="store_true", help="measure new last layers of `improve` too")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    arguments = parser.parse_args()
    file = arguments.output_dir / ("shortcuts-finetuned.json" if arguments.finetuned else "shortcuts.json")
    results = (read_json(file) or {}).get("models", {})
    for seed in arguments.seeds:
        for source in arguments.sources:
            for planted in arguments.planted:
                for rate in arguments.rates[:1] if planted == "none" else arguments.rates:
                    key = f"{source}/{planted}/{rate:g}/{seed}"
                    if key not in results:
                        results[key] = run(source, planted, rate, seed, arguments)
                        arguments.output_dir.mkdir(parents=True, exist_ok=True)
                        write_json(file, {"models": results, **environment()})
                        one = results[key]
                        print(key, f"{one['home']:.2f} {one['random']:.2f}", *one["named"], flush=True)
    tables = [matrix(results), *([mended_table(results)] if arguments.mend else [])]
    print(*(table.markdown() for table in tables), summary(results), sep="\n\n")


if __name__ == "__main__":
    main()
