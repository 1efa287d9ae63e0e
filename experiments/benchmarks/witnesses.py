"""What tells which last layer is better on photographs that were taken elsewhere, before there are any?

    python -m experiments witnesses --root runs/bar

needs the models that `elsewhere measure` improved in the same folder. It fits many last layers to the features of each,
with and without composites and reweighting, and compares what is known without photographs from elsewhere (top-1 on the
validation photographs, on those with unusual backgrounds, and on composites) with class-balanced top-1 on the half `a`
of BAR's test. Writes to witnesses.json the rank correlations over the layers, and for each kind of fit, and fewer
training photographs, what the rule of `improve` chooses, and how much top-1 on `a` changes, in points. Also what the features
allow: top-1 of a layer that was fitted to half of `a`, on the other half.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import spearmanr

from robust_vit_hf.data.balanced_splits import turns_within_classes
from robust_vit_hf.data.transforms import eval_transform
from robust_vit_hf.evaluation.session import open_session
from robust_vit_hf.improvement.candidates import (
    INTERPOLATION_WEIGHTS,
    Candidate,
    Layer,
    compute_features,
    half_of_the_weight,
    new_layers,
)
from robust_vit_hf.improvement.choice import choose
from robust_vit_hf.improvement.images import images_by_role
from robust_vit_hf.improvement.improve import with_masks
from robust_vit_hf.improvement.options import SHARES, ImproveOptions
from robust_vit_hf.utils.cache import Cache
from robust_vit_hf.utils.files import read_json, write_json

from ..scripts import script_parser


RESULTS = Path(__file__).with_suffix(".json")
MODELS = ("vit-10", "vit-11", "cnn-10", "cnn-11")
# How layers are fitted, their interpolation weights, and numbers of training photographs.
KINDS_OF_FITS = ("labels", "labels, reweighted", "composites", "composites, reweighted")
WEIGHTS, FEWER = (0.1, 0.25, 0.5, 0.75, 1.0), (100, 200, 400, 800)


def gains(root: Path, name: str) -> Iterator[tuple[str, int, Candidate, float]]:
    """Kind of the fit, number of training photographs, candidate, and its change of top-1 on `a` in points, of the last
    layers of a model that has been improved."""
    options = ImproveOptions(
        model=str(root / name), dataset=str(root / "photographs"), output_dir=root / "improved" / name
    )
    cache, notes = Cache(options.output_dir / "cache"), []
    with open_session(options.model, None, options.protocol, options.output_dir, cache=cache, bf16=True) as session:
        images = with_masks(images_by_role(session, options, notes)[0], session, options, notes)
        train, validation = (session.with_images(of_role, options.dataset, None) for of_role in images.values())
        features, side = compute_features(train, validation), session.sides["before"]
        files = sorted((root / "photographs" / "a").rglob("*.jpg"))
        labels = np.array([session.classes.index(file.parent.name) for file in files])
        transform = eval_transform(side.processor)
        with torch.no_grad():
            parts = [transform({"image": [Image.open(file)]})["pixel_values"][0][None] for file in files]
            elsewhere = np.concatenate([features.last.outputs(part)[1].float().numpy() for part in parts])

    def top1(layer: Layer, rows: np.ndarray | slice = slice(None)) -> float:
        right, of = layer.logits(elsewhere[rows]).argmax(axis=1) == labels[rows], labels[rows]
        return 100 * float(np.mean([right[of == label].mean() for label in np.unique(of)]))

    own, of_train = features.layer, features.train
    original = Candidate.of(features.validation.mapped(own.logits))
    for kind, count in [*product(KINDS_OF_FITS, [len(of_train.labels)]), *product(KINDS_OF_FITS[-1:], FEWER)]:
        rows = np.random.default_rng(0).permutation(len(of_train.labels))[:count]
        mixed = of_train.mixed if "composites" in kind else of_train.original[:, None]
        part = replace(of_train, original=of_train.original[rows], mixed=mixed[rows], labels=of_train.labels[rows])
        counts = half_of_the_weight(features.train_unusual[rows]) if "reweighted" in kind else None
        for title, layer in new_layers(own, part, features.last.has_bias, counts):
            for weight in WEIGHTS:
                between = own.interpolated(layer, weight)
                candidate = Candidate.of(features.validation.mapped(between.logits), name=title, weight=weight)
                candidate = replace(candidate.beside(original), unusual_background=features.validation_unusual)
                yield kind, count, candidate, top1(between) - top1(own)
    half = turns_within_classes(labels, 0) % 2 == 0
    part = replace(of_train, original=elsewhere[half], mixed=elsewhere[half][:, None], labels=labels[half])
    (*_, (_, allowed)) = new_layers(own, part, features.last.has_bias)
    yield "allowed", 0, original, top1(allowed, ~half)
    yield "original", 0, replace(original, unusual_background=features.validation_unusual), 0.0


def witnesses(root: Path, name: str) -> dict:
    """Rank correlations of each witness with the change elsewhere, and the changes of what is chosen, by kind of fit."""
    *found, (*_, allowed), (_, _, original, _) = gains(root, name)
    table = pd.DataFrame(
        {
            "kind": kind, "count": count, "candidate": candidate, "elsewhere": change, "usual": np.mean(candidate.usual),
            "unusual": np.nanmean(candidate.unusual), "composites": np.nanmean(candidate.other),
        }
        for kind, count, candidate, change in found
    )  # fmt: skip
    record = {}
    for (kind, count), of in table.groupby(["kind", "count"], sort=False):
        candidates = [original, *(of.candidate[np.isin([one.weight for one in of.candidate], INTERPOLATION_WEIGHTS)])]
        chosen = choose(candidates, SHARES[-1])
        change = dict(zip(map(id, of.candidate), of.elsewhere, strict=True)).get(id(chosen), 0.0)
        record[f"{kind}, {count}"] = {"chosen": str(chosen), "elsewhere": round(change, 2)}
    whole = table[table["count"] == table["count"].max()]
    ranks = {of: spearmanr(whole[of], whole.elsewhere)[0] for of in ("usual", "unusual", "composites")}
    return {
        "layers": len(whole),
        "spearman": {of: round(float(rank), 2) for of, rank in ranks.items()},
        "fits": record,
        "allowed": round(allowed, 1),
    }


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    arguments = parser.parse_args()
    for name in arguments.models:
        results = read_json(RESULTS) or {}
        results[name] = witnesses(arguments.root, name)
        write_json(RESULTS, results)
        print(name, results[name], flush=True)
