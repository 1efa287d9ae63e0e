"""Last layers trained to convergence on emoji-shift: on composites, and on labelled images by their groups (DFR, AFR,
GroupDRO).

    python -m experiments group_layers --output_dir runs/group-layers --bf16    # half an hour on one core

For the five models of the experiment's tests, `runs/emoji-bias-10` and so on, as experiments/Makefile trains them, and
their images. Layers begin at the model's and are fitted by L-BFGS on features that are computed once, from

- the two images of each of 48 classes that the experiment trains on, and six composites of each by its true mask;
- two of each of all 96 classes, and as many composites; or
- ten of each of all classes, without masks, 2 % of which have the background of other classes: their groups.

Penalty and interpolation weight with the model's layer are chosen by the criterion of the experiment, on its
validation images; test images are predicted once, by the layers that were chosen. Writes
`experiments/benchmarks/group_layers.json`.

Sources: https://huggingface.co/papers/2204.02937 (DFR), https://huggingface.co/papers/2306.11074 (AFR: without group
labels, images that the model is unsure of weigh more), https://huggingface.co/papers/1911.08731 (GroupDRO).
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from robust_vit_hf.data.emoji_shift import (
    CLASS_NAMES,
    NEW_BACKGROUNDS,
    background_of,
    classes_before,
    load_finetuning_splits,
    load_split,
)
from robust_vit_hf.data.transforms import input_size
from robust_vit_hf.evaluation.other_backgrounds import Outputs, composite_outputs
from robust_vit_hf.evaluation.session import Session, open_session
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.improvement.candidates import VALIDATION_COMPOSITES, Layer, fit_layer
from robust_vit_hf.models.last_layer import LastLayer
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json

from ..scripts import script_parser
from ..sweeps.seed_intervals import Gains, mean_gain
from .last_layer import choose_layer


SEEDS, COMPOSITES, MAX_LOSS = range(10, 15), 6, 2.0
VALIDATION, EACH, COMPOSED = 4, 10, 2  # images of each class
PENALTIES, INTERPOLATION_WEIGHTS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4), (0.25, 0.5, 0.75, 1.0)
SHARPNESS = 20.0  # of the smooth maximum over groups
UNSURE = (1.0, 4.0, 16.0)  # AFR's exponents
SOLVER = {"gtol": 1e-9, "ftol": 0, "maxiter": 2000, "maxfun": 4000}
FLAT = 1e-7  # the highest slope of a converged loss
TESTS, TEST_IMAGES = ("background_new", "val", "background_random"), 300
Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]  # of the losses of images: a value, and its gradient


class Features:
    """Features of a model for the images of a seed."""

    def __init__(self, session: Session, seed: int):
        side = session.sides["before"]
        last = LastLayer(side.model.eval(), input_size(side.processor))
        self.own = Layer(*(values.double().numpy() for values in (last.weight, last.bias)))

        def of(name: str, rows: datasets.Dataset, count: int) -> Outputs:
            one = session.with_sets({name: EvaluationSet.of(rows)})
            return composite_outputs(side, one, count, last)

        splits, classes = load_finetuning_splits(2, seed, seed), len(CLASS_NAMES)
        more = load_split("train", (VALIDATION + EACH) * classes, seed)
        more = more.select(range(VALIDATION * classes, len(more)))  # the others are those of training and validation
        self.few = of("train", splits["train"], COMPOSITES)
        self.many = of("more", more, 0)
        self.all = of("all", more.select(range(COMPOSED * classes)), COMPOSITES)
        self.selection = of("selection", splits["validation"], VALIDATION_COMPOSITES)
        self.tests = {name: of(name, load_split(name, TEST_IMAGES, seed), 0) for name in TESTS}
        self.places = np.unique(more["background"], return_inverse=True)[1]
        self.elsewhere = np.array(
            [
                CLASS_NAMES[row["label"]] not in classes_before(row["background"])
                for row in more.remove_columns(["image", "mask"])
            ]
        )


def layers(found: Features) -> Iterator[tuple[str, str, Layer]]:
    """New layers: their method, settings and values."""
    few, many, own = found.few, found.many, found.own
    sure = softmax(own.logits(many.original), axis=1)[range(len(many.labels)), many.labels]
    of_groups = np.where(found.elsewhere, 1 / found.elsewhere.sum(), 1 / (~found.elsewhere).sum())
    for penalty in PENALTIES:
        text, fit_few, fit_many = (
            f"penalty {penalty:g}",
            *(partial(fitted, own, of.original, of.labels, penalty=penalty) for of in (few, many)),
        )
        yield "label", text, fit_few(weighted(np.ones(len(few.labels))))
        outputs = softmax(own.logits(few.original), axis=1)
        yield "composites, output of the original", text, fit_layer(own, few, outputs, penalty)
        for classes, features in {"": few, ", 2 images of all classes": found.all}.items():
            targets = np.eye(len(own.bias))[features.labels]
            yield f"composites, label{classes}", text, fit_layer(own, features, targets, penalty)
            yield f"composites, GroupDRO{classes}", text, worst_fitted(own, features, penalty)
        of_all = ", 10 images of all classes"
        yield f"label{of_all}", text, fit_many(weighted(np.ones(len(many.labels))))
        yield f"DFR with group labels{of_all}", text, fit_many(weighted(of_groups))
        for power in UNSURE:
            name = f"DFR without group labels (AFR){of_all}"
            yield name, f"{text}, {power:g}", fit_many(weighted(np.exp(-power * sure)))
        yield f"GroupDRO{of_all}", text, fit_many(worst_of(many.labels * 1000 + found.places))


def worst_fitted(own: Layer, features: Outputs, penalty: float) -> Layer:
    """GroupDRO on the images of each class and on their composites."""
    size = features.mixed.shape[1]
    inputs = np.concatenate([features.original, features.mixed.reshape(-1, features.mixed.shape[-1])])
    labels = np.concatenate([features.labels, np.repeat(features.labels, size)])
    composed, known = np.arange(len(labels)) >= len(features.labels), ~np.isnan(inputs[:, 0])
    groups = worst_of((2 * labels + composed)[known])
    return fitted(own, inputs[known], labels[known], groups, penalty)


def weighted(weights: np.ndarray) -> Objective:
    """Mean of the losses by weights."""
    return lambda losses: (float(weights @ losses / weights.sum()), weights / weights.sum())


def worst_of(groups: np.ndarray) -> Objective:
    """Smooth maximum of the mean losses of groups."""
    _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)

    def objective(losses: np.ndarray) -> tuple[float, np.ndarray]:
        sharp = SHARPNESS * np.bincount(numbers, losses) / counts
        return float(logsumexp(sharp)) / SHARPNESS, (softmax(sharp) / counts)[numbers]

    return objective


def fitted(start: Layer, features: np.ndarray, labels: np.ndarray, objective: Objective, penalty: float) -> Layer:
    """The minimum of an objective of the cross-entropies and, as in [`fit_layer`], of a penalty on the distance from a
    layer."""
    features, images = features.astype(float), np.arange(len(labels))
    first, scale = start.logits(features), np.sqrt((features**2).sum(axis=1).mean())
    inputs = np.concatenate([features / scale, np.ones((len(features), 1))], axis=1)

    def loss(change: np.ndarray) -> tuple[float, np.ndarray]:
        change = change.reshape(len(start.bias), -1)
        logits = first + inputs @ change.T
        value, weights = objective(-log_softmax(logits, axis=1)[images, labels])
        slopes = softmax(logits, axis=1)
        slopes[images, labels] -= 1
        gradient = (weights[:, None] * slopes).T @ inputs + penalty * change
        return value + penalty / 2 * (change**2).sum(), gradient.ravel()

    begin = np.zeros(start.bias.size * inputs.shape[1])
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options=SOLVER)
    if np.abs(found.jac).max() > FLAT:
        raise RuntimeError(f"The fit with penalty {penalty:g} did not converge: {found.message}")
    change = found.x.reshape(len(start.bias), -1)
    return Layer(start.weight + change[:, :-1] / scale, start.bias + change[:, -1])


def gains(found: Features, layer: Layer, seed: int) -> dict[str, Gains]:
    """Gains on the tests; images of new backgrounds are drawn with their photograph."""
    names, values = list(NEW_BACKGROUNDS), {}
    for name, test in found.tests.items():
        after, before = (test.mapped(of.logits).right()["original"] for of in (layer, found.own))
        drawn, images = np.arange(len(after)), str(seed)
        if name == "background_new":
            drawn, images = np.array([names.index(background_of(name, row, seed)) for row in drawn]), ""
        values[name] = Gains(after - before, str(seed), drawn, images)
    return values


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    arguments = parser.parse_args()
    settings, measured = {}, {}
    for seed in SEEDS:
        model = f"runs/emoji-bias-{seed}", None, "paper"
        with open_session(*model, arguments.output_dir / str(seed), bf16=arguments.bf16) as session:
            found = Features(session, seed)
        made: dict[str, dict[str, Layer]] = {}
        for method, name, layer in layers(found):
            made.setdefault(method, {})[name] = layer
        for method, of_method in made.items():
            layer, name = choose_layer(found.own, of_method, found.selection, INTERPOLATION_WEIGHTS, MAX_LOSS)
            settings.setdefault(method, []).append("none" if layer is found.own else name)
            for name, of_set in gains(found, layer, seed).items():
                measured.setdefault(method, {}).setdefault(name, []).append(of_set)
    results = {
        method: {"chosen": settings[method]} | {name: str(mean_gain({name: of})) for name, of in of_method.items()}
        for method, of_method in measured.items()
    }
    write_json(Path(__file__).with_suffix(".json"), {"methods": results, **environment()})
