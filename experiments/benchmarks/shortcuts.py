"""Whether `diagnose --attributes` finds and names what a model was taught to decide by.

    python benchmarks/shortcuts.py --bf16                             # last layers
    python benchmarks/shortcuts.py --bf16 --finetuned                 # whole models
    python benchmarks/shortcuts.py --bf16 --rates 0.95 --seeds 3 --mend
    python benchmarks/shortcuts.py --picture docs/shortcuts.png       # what is planted, and no model
    python benchmarks/shortcuts.py --bf16 --planted border --rates 0.95 --export runs/framed  # a model and its images

An attribute is planted: each class has a habitual value of it in 100 or 95 % of the images, and a random one in the others. A
classifier is trained on them: the last layer of a DINOv2-S (logistic regression), or all of it. Objects are sixteen drawings of
emoji-shift on photographs, or handwritten digits on textures; backgrounds are random unless they are what is planted. Masks are the
true ones. With --mend, `improve` makes a new last layer with what was named, and, as a control, one without; both are measured on
images that had no part in anything (three times as long). Prints what was planted × what was named, and adds to
benchmarks/shortcuts.json after each model; what is in it is not measured again.
"""

import argparse
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import PreTrainedModel, ViTImageProcessor

from robust_vit_hf.data.attributes import ATTRIBUTES
from robust_vit_hf.diagnosis.attribute_verdict import AttributeDiagnosis
from robust_vit_hf.evaluation.measurements.base import measure
from robust_vit_hf.evaluation.measurements.other_attributes import Attributes
from robust_vit_hf.evaluation.session import Session, Side
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.improvement.candidates import choose_cheapest
from robust_vit_hf.improvement.fit_layers import Layer
from robust_vit_hf.improvement.new_layers import NewLayers
from robust_vit_hf.models.emoji_shift_model import load_backbone
from robust_vit_hf.models.last_layer import LastLayer
from robust_vit_hf.results.intervals import Difference, Resamples
from robust_vit_hf.results.tables import Table
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json
from robust_vit_hf.utils.processes import make_accelerator

from .planted_images import PLANTED, SIZE, SOURCES, draw, save_picture


MEASURED = ("emoji", "digits")  # of the sources of images
COST = 0.1  # of the attribute drawn at random, from which on it should be named
ROLES, PLACES = {"train": "train", "selection": "validation"}, {"random": "test random", "home": "test"}  # splits
MAX_LOSS = 1.0  # points of top-1 that may be lost on the selection images, as by default
UNTOLD = "compression"  # no attribute of `diagnose`


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
    return Session({"before": Side.of(model, processor)}, {}, make_accelerator(of.bf16))


def dataset_of(rows: list[tuple], names: list[str]) -> datasets.Dataset:
    label = datasets.ClassLabel(names=names)
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image(), "label": label})
    listed = [dict(zip(features, row, strict=True)) for row in rows]
    return datasets.Dataset.from_list(listed, features=features)


def images_of(rows: list[tuple], names: list[str]) -> EvaluationSet:
    return EvaluationSet.of(dataset_of(rows, names))


def diagnosed(of: Shortcut) -> dict:
    """Top-1 at home and with the attribute at random, and the diagnosis."""
    session, shuffled = trained(of), of.rows("random")
    images = session.with_sets({"images": images_of(of.rows("validation"), session.classes)})
    measured = measure(images, Attributes(batch_size=64))["images"]["before"]
    found = AttributeDiagnosis(measured.columns, tuple(ATTRIBUTES))
    home = np.mean(np.array(measured.columns["original"]) == np.array(measured.columns["label"]))
    last = LastLayer(session.sides["before"].model, pixels(shuffled[:1]))
    predicted = outputs(last, pixels(shuffled), of.bf16)[0].argmax(axis=1)
    at_random = np.mean(predicted == [label for _, _, label in shuffled])
    return {"home": float(home), "random": float(at_random), **found.record()}


def new_layer(session: Session, rows: dict[str, list[tuple]], attributes: list[str]) -> Layer:
    """The last layer that `improve` chooses."""
    of_role = {role: session.with_sets({role: images_of(of, session.classes)}) for role, of in rows.items()}
    with TemporaryDirectory() as folder:
        layers = NewLayers.of(of_role, Path(folder), (64, 0), None, attributes)
        chosen = choose_cheapest([layers.before, *layers.mixtures], layers.before, MAX_LOSS)
        return layers.layer(chosen.settings, chosen.alpha)


def mended(of: Shortcut, named: list[str]) -> dict:
    """Top-1 before, and its changes by a new last layer without and with the named attributes, by place."""
    session, attributes = trained(of), [name for name in named if name != "background"]
    rows = {role: of.rows(split) for role, split in ROLES.items()}
    last = LastLayer(session.sides["before"].model, pixels(rows["train"][:1]))
    layers = {"before": Layer(last.weight.numpy(), last.bias.numpy()), "without": new_layer(session, rows, [])}
    layers["with"] = new_layer(session, rows, attributes) if attributes else layers["without"]
    found = {}
    for place, split in PLACES.items():
        tested = of.rows(split)
        features, labels = outputs(last, pixels(tested), of.bf16)[1], [label for _, _, label in tested]
        right = {name: (one.logits(features).argmax(axis=1) == labels).astype(float) for name, one in layers.items()}
        changes = {name: right[name] - right["before"] for name in ("without", "with")}
        drawn = Resamples.means(changes | {"more": right["with"] - right["without"]})
        found[place] = {"before": float(right["before"].mean())}
        found[place] |= {name: asdict(one.interval(Difference)) for name, one in drawn.items()}
    return found


def export(of: Shortcut, folder: Path) -> None:
    """Write a model, and its images with masks, for `robust-vit diagnose` and `improve`."""
    session = trained(of)
    for part in (session.sides["before"].model, session.sides["before"].processor):
        part.save_pretrained(folder / "model")
    for split in ROLES.values():
        rows = dataset_of(of.rows(split), session.classes)
        rows.to_parquet(folder / "photographs" / f"{split}-00000.parquet")


def groups_of(results: dict[str, dict]) -> dict[tuple[str, str], dict[str, dict]]:
    """Results by what was trained, and by the share of the images of a class that have its habitual value."""
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for key, one in results.items():
        _, _, rate, _, *finetuned = key.split("/")
        group = ("whole model" if finetuned else "last layer", f"{100 * float(rate):g} %")
        found.setdefault(group, {})[key] = one
    return dict(sorted(found.items()))


def matrix(results: dict[str, dict]) -> Table:
    """How often each attribute was named, by what was planted, where that costs [`COST`] or more; and of nothing planted."""
    heads, rows = [*ATTRIBUTES, "nothing"], []
    for group, of_group in groups_of(results).items():
        for planted in PLANTED:
            counted = [one for key, one in of_group.items() if f"/{planted}/" in key]
            if planted != "none":
                counted = [one for one in counted if one["home"] - one["random"] >= COST]
            if counted:
                costs = [one["home"] - one["random"] for one in counted]
                named = [sum(name in (one["named"] or ["nothing"]) for one in counted) for name in heads]
                rows.append([*group, planted, str(len(counted)), f"{100 * np.mean(costs):.0f}", *map(str, named)])
    return Table("Planted × named", ["trained", "habitual", "planted", "models", "cost, points", *heads], rows)


def mended_table(results: dict[str, dict]) -> Table:
    """Top-1 before, and its changes by a new last layer without and with the named attributes."""
    rows = []
    for key, one in results.items():
        cells = []
        for found in one.get("mended", {}).values():
            changes = {name: str(Difference(**found[name])) for name in ("without", "with", "more")}
            if {*one["named"]} <= {"background"}:
                changes |= {"with": "–", "more": "–"}
            cells += [f"{100 * found['before']:.1f}", *changes.values()]
        if cells:
            rows.append([key, ", ".join(one["named"]) or "nothing", *cells])
    heads = ["without", "with the attribute", "with − without"]
    return Table("Top-1", ["model", "named", "at random, before", *heads, "at home, before", *heads], rows)


def summary(results: dict[str, dict]) -> str:
    """Counts of each group of [`groups_of`], and of all."""
    lines = [f"- {', '.join(group)}. {counts(of_group)}" for group, of_group in groups_of(results).items()]
    return "\n".join([*lines, f"- All. {all_counts(results)}"])


def counts(results: dict[str, dict]) -> str:
    """How often what was planted is named, and how often something where nothing was."""
    kinds = [(key.split("/")[1], one) for key, one in results.items()]
    costly = [(of, one["named"]) for of, one in kinds if of != "none" and one["home"] - one["random"] >= COST]
    told = [(planted, names) for planted, names in costly if planted != UNTOLD]
    first = sum(names[:1] == [planted] for planted, names in told)
    alone = sum(names == [planted] for planted, names in told)
    alarms = [bool(one["named"]) for planted, one in kinds if planted == "none"]
    text = (
        f"Where planting costs {100 * COST:.0f} points or more, the planted attribute is named first in {first} of {len(told)} models, and "
        f"alone in {alone}; with {UNTOLD}, which has no name, first in {first} of {len(costly)}."
    )
    return f"{text} False alarms where nothing is planted: {sum(alarms)} of {len(alarms)}." if alarms else text


def all_counts(results: dict[str, dict]) -> str:
    """[`counts`], what the false alarms show, and how many names stand on an unresolved gap."""
    kinds, text = [(key.split("/")[1], one) for key, one in results.items()], counts(results)
    alarms = [bool(one["named"]) for planted, one in kinds if planted == "none"]
    if alarms:
        most = binomtest(sum(alarms), len(alarms), alternative="less").proportion_ci().high
        text += (
            f" So at most {100 * most:.0f} % of such models get a false alarm (95 %, if the models were independent)."
        )
    right = [name == of for of, one in kinds for name in one["named"] if one["measures"][name]["gap"]["low"] <= 0]
    count = sum(len(one["named"]) for _, one in kinds)
    return (
        f"{text} Of {count} names in all models, {len(right)} have an unresolved gap, of which {sum(right)} are right."
    )


def add(file: Path, key: str, found: dict) -> None:
    """Add to the results of a model in a file, which other processes may have added to."""
    results = (read_json(file) or {}).get("models", {})
    results[key] = results.get(key, {}) | found
    write_json(file, {"models": results, **environment()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--sources", nargs="+", choices=MEASURED, default=MEASURED)
    parser.add_argument("--planted", nargs="+", choices=PLANTED, default=PLANTED)
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 0.95])
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5], help="the rules were made on 0 to 2")
    parser.add_argument("--finetuned", action="store_true", help="train whole models, not only their last layer")
    parser.add_argument("--mend", action="store_true", help="measure new last layers of `improve` too")
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
        measured = (read_json(file) or {"models": {}})["models"].get(one.key, {})
        if not measured:
            measured = diagnosed(one)
            add(file, one.key, measured)
            print(one.key, f"{measured['home']:.2f} {measured['random']:.2f}", *measured["named"], flush=True)
        if arguments.mend and "mended" not in measured:
            add(file, one.key, {"mended": mended(one, measured["named"])})
    results = read_json(file)["models"]
    print(matrix(results).markdown(), mended_table(results).markdown(), summary(results), sep="\n\n")


if __name__ == "__main__":
    main()
