"""Whether `diagnose --attributes` names the attribute that a model was taught to decide by.

    python -m experiments shortcuts --bf16                             # last layers
    python -m experiments shortcuts --bf16 --finetuned                 # whole models
    python -m experiments shortcuts --picture docs/shortcuts.png       # what is planted, and no model
    python -m experiments shortcuts --bf16 --planted border --rates 0.95 --export runs/framed  # a model and its images

An attribute is planted: each class has a usual value of it in 100 or 95 % of the images, and a random one in the
others. A classifier is trained on them: the last layer of a DINOv2-S (logistic regression), or all of it. Objects are
sixteen drawings of emoji-shift on photographs, or handwritten digits on textures; backgrounds are random unless they
are what is planted. Masks are the true ones. Prints what was planted × what was named, and adds to
experiments/benchmarks/shortcuts.parquet after each model; what is in it is not measured again.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import datasets
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import PreTrainedModel, ViTImageProcessor

from robust_vit_hf.data.background_edits import ATTRIBUTES
from robust_vit_hf.diagnosis.verdict import AttributeDiagnosis
from robust_vit_hf.evaluation.other_backgrounds import Backgrounds
from robust_vit_hf.evaluation.session import Session, Side, measure
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.models.emoji_shift_model import load_backbone
from robust_vit_hf.models.last_layer import LastLayer
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.processes import make_accelerator

from ..pages.planted import matrix, mended_table, summary
from ..scripts import script_parser
from .outcomes import read_outcomes, write_outcomes
from .planted_images import PLANTED, SIZE, SOURCES, draw, save_picture


MEASURED = ("emoji", "digits")  # of the sources of images
ROLES, PLACES = {"train": "train", "validation": "validation"}, {"random": "test random", "home": "test"}  # splits


def pixels(rows: list[tuple]) -> torch.Tensor:
    """Images `(N, 3, SIZE, SIZE)` as the model expects them."""
    return torch.stack([pil_to_tensor(image) / 127.5 - 1 for image, _, _ in rows])


def outputs(layer: LastLayer, images: torch.Tensor, bf16: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logits and features."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = [layer.outputs(batch) for batch in images.split(64)]
    return tuple(torch.cat(of).float().numpy() for of in zip(*found, strict=True))


def fit_last_layer(model: PreTrainedModel, images: torch.Tensor, labels: np.ndarray, bf16: bool) -> None:
    layer = LastLayer(model, tuple(images.shape[2:]))
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


@dataclass(frozen=True)
class Shortcut:
    """A model, by the images that it is trained on, see [`draw`], and how."""

    source: str
    planted: str
    rate: float
    seed: int
    finetuned: bool
    bf16: bool

    @property
    def key(self) -> str:
        """Name in the results."""
        trained = "/finetuned" if self.finetuned else ""
        return f"{self.source}/{self.planted}/{self.rate:g}/{self.seed}{trained}"

    def rows(self, split: str) -> list[tuple]:
        return draw(self.source, self.planted, self.rate, split, self.seed)


@lru_cache(maxsize=1)
def trained(of: Shortcut) -> Session:
    """Session of the model."""
    model = model_of(of.rows("train"), SOURCES[of.source][1], of.finetuned, of.bf16)
    processor = ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=3 * [0.5], image_std=3 * [0.5], do_center_crop=False
    )
    return Session({"before": Side.of(model, processor)}, {}, make_accelerator(of.bf16), passes=(64, 0))


def dataset_of(rows: list[tuple], names: list[str]) -> datasets.Dataset:
    label = datasets.ClassLabel(names=names)
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image(), "label": label})
    listed = [dict(zip(features, row, strict=True)) for row in rows]
    return datasets.Dataset.from_list(listed, features=features)


def images_of(rows: list[tuple], names: list[str]) -> EvaluationSet:
    return EvaluationSet.of(dataset_of(rows, names))


def diagnosed(of: Shortcut) -> dict:
    """Top-1 with the usual attribute and with the attribute at random, and the diagnosis."""
    session, shuffled = trained(of), of.rows("random")
    images = session.with_sets({"images": images_of(of.rows("validation"), session.classes)})
    measured = measure(images, Backgrounds(("original",), tuple(ATTRIBUTES), relevance=False))["images"]["before"]
    found = AttributeDiagnosis(measured, tuple(ATTRIBUTES))
    home = np.mean(np.array(measured["original"]) == np.array(measured["label"]))
    last = LastLayer(session.sides["before"].model, tuple(pixels(shuffled[:1]).shape[2:]))
    predicted = outputs(last, pixels(shuffled), of.bf16)[0].argmax(axis=1)
    at_random = np.mean(predicted == [label for _, _, label in shuffled])
    return {"home": float(home), "random": float(at_random), **found.record()}


def export(of: Shortcut, folder: Path) -> None:
    """Write a model, and its images with masks, for `robust-vit diagnose` and `improve`."""
    session = trained(of)
    for part in (session.sides["before"].model, session.sides["before"].processor):
        part.save_pretrained(folder / "model")
    for split in ROLES.values():
        rows = dataset_of(of.rows(split), session.classes)
        rows.to_parquet(folder / "photographs" / f"{split}-00000.parquet")


def add(file: Path, key: str, found: dict) -> None:
    """Add to the results of a model in a file, which other processes may have added to."""
    results, _ = read_outcomes(file)
    results[key] = results.get(key, {}) | found
    write_outcomes(file, results, environment())


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".parquet"))
    parser.add_argument("--sources", nargs="+", choices=MEASURED, default=MEASURED)
    parser.add_argument("--planted", nargs="+", choices=PLANTED, default=PLANTED)
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 0.95])
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[3, 4, 5], help="the criteria were developed on 0 to 2"
    )
    parser.add_argument("--finetuned", action="store_true", help="train whole models, not only their last layer")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument(
        "--picture", type=Path, help="draw the attributes of other images to this file, and measure nothing"
    )
    parser.add_argument(
        "--export",
        type=Path,
        help="write the first of the models, and its images, to this folder, and measure nothing",
    )
    arguments = parser.parse_args()
    if arguments.picture:
        return save_picture(arguments.picture)
    file = arguments.results
    for seed, *images in product(arguments.seeds, arguments.sources, arguments.planted, arguments.rates):
        one = Shortcut(*images, seed, arguments.finetuned, arguments.bf16)
        if arguments.export:
            return export(one, arguments.export)
        measured = read_outcomes(file)[0].get(one.key, {})
        if not measured:
            measured = diagnosed(one)
            add(file, one.key, measured)
            print(one.key, f"{measured['home']:.2f} {measured['random']:.2f}", *measured["named"], flush=True)
    results, _ = read_outcomes(file)
    print(matrix(results).markdown(), mended_table(results).markdown(), summary(results), sep="\n\n")
