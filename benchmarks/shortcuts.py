"""Whether `diagnose --attributes` finds and names what a model was taught to decide by.

    python benchmarks/shortcuts.py --bf16                             # last layers
    python benchmarks/shortcuts.py --bf16 --finetuned                 # whole models
    python benchmarks/shortcuts.py --picture docs/shortcuts.png       # what is planted, and no model

An attribute is planted: each class has a habitual value of it in 100 or 95 % of the images, and a random one in the others. A
classifier is trained on them: the last layer of a DINOv2-S (logistic regression), or all of it. Objects are sixteen drawings of
emoji-shift on photographs, or handwritten digits on textures; backgrounds are random unless they are what is planted. Masks are the
true ones. With --mend, `improve`'s new last layers are made for what was named, and top-1 with the attribute at random is measured
before and after (three times as long). Prints what was planted × what was named, and writes shortcuts.json, anew after each model;
what is in it is not measured again.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import torch
from planted_images import PLANTED, SIZE, SOURCES, SPLITS, draw, save_picture
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
from robust_vit_hf.improvement.new_layers import NewLayers
from robust_vit_hf.models.emoji_shift_model import load_backbone
from robust_vit_hf.models.last_layer import LastLayer
from robust_vit_hf.results.markdown_latex import Table
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json
from robust_vit_hf.utils.processes import make_accelerator


MEASURED = ("emoji", "digits")  # of the sources of images
COST = 0.1  # of the attribute drawn at random, from which on it should be named
PLACES, MAX_LOSS = {"home": "validation", "random": "random"}, 2.0  # splits; points of top-1 that may be lost at home
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
    parser.add_argument("--output_dir", type=Path, default=Path("runs/shortcuts"))
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
    arguments = parser.parse_args()
    if arguments.picture:
        return save_picture(arguments.picture)
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
