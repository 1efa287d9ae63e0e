"""Candidates: the models that may be chosen, most of which have a new last layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import datasets
import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from transformers import PreTrainedModel

from ..data.transforms import input_size
from ..evaluation.other_backgrounds import MOVED, Outputs, composite_outputs
from ..evaluation.session import Session, Side
from ..hub.model_card import describe_model
from ..models.last_layer import LastLayer
from ..utils.files import RUN_FILE
from .unusual import unusual_backgrounds


# Of new layers and of finetuned weights. Without 0.75, which was chosen on BAR for 2 of 4 models, and cost them more at home than it gained
# elsewhere; 1 is chosen where nothing is lost at home.
INTERPOLATION_WEIGHTS = (0.25, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class Candidate:
    """The original model, or an interpolation between it and a changed model.

    Args:
        usual, other: `(N,)` whether each validation image is right, and the share of its composites with other backgrounds that are; NaN
            without any.
        usual_probability, other_probability: `(N,)` probability of the right class, at the candidate's own temperature, for the image, and
            the mean for its composites.
        name: how the changed model was made.
        weight: interpolation weight, from 0 to 1.
        outputs: computes its logits on the validation images.
        build: makes the model, and the contents of the files that are saved with it.
        edited: `(N,)` like `other`, but of the composites with attributes of other images too; without, `None`.
        covered, covered_probability: `(N,)` like `other`, of the composite whose object is covered; 0 without.
        unusual_background: `(N,)` whether each image has one, see [`~robust_vit_hf.improvement.unusual`].
    """

    usual: np.ndarray
    other: np.ndarray
    usual_probability: np.ndarray
    other_probability: np.ndarray
    name: str = "original"
    weight: float = 0.0
    outputs: Callable[[], Outputs] | None = None
    build: Callable[[], tuple[PreTrainedModel, dict[str, dict]]] | None = None
    edited: np.ndarray | None = None
    covered: np.ndarray | float = 0.0
    covered_probability: np.ndarray | float = 0.0
    unusual_background: np.ndarray | bool = False

    @classmethod
    def of(cls, logits: Outputs, **fields) -> Self:
        return cls(**measured_outcomes(logits), **fields)

    def beside(self, before: "Candidate") -> "Candidate":
        """Without the part of the gain on other backgrounds that it has without the object too. If masks contain background, a model can learn
        to recognise the class by it. A model that recognises less than before without the object gains nothing by that."""
        other = _without(self.other, before.other, self.covered - before.covered)
        of_covered = self.covered_probability - before.covered_probability
        probability = _without(self.other_probability, before.other_probability, of_covered)
        return replace(self, other=other, other_probability=probability)

    @property
    def unusual(self) -> np.ndarray:
        """`(N,)` like `usual`, of the images with unusual backgrounds; NaN for the others."""
        return np.where(self.unusual_background, self.usual, np.nan)

    @property
    def top1(self) -> tuple[float, float]:
        """Top-1 on usual and on other backgrounds."""
        return float(np.nanmean(self.usual)), float(np.nanmean(self.other))

    def __str__(self) -> str:
        return f"{self.name}, interpolation weight {self.weight:g}" if self.weight else self.name


def _without(values: np.ndarray, before: np.ndarray, part: np.ndarray | float) -> np.ndarray:
    """Values without a part, of which no more is subtracted than the values gained in the mean."""
    gain, mean = np.nanmean(values - before), np.nanmean(part + 0 * values)
    return values - part * np.clip(gain / mean, 0, 1) if mean > 0 else values


def measured_outcomes(logits: Outputs) -> dict[str, Any]:
    """The arrays of a [`Candidate`] by name."""
    # Composites with attributes of other images come after those with other backgrounds.
    right = replace(logits, mixed=logits.mixed[:, :VALIDATION_COMPOSITES]).right()
    temperature = temperature_of(logits.among_classes())
    probability, outcomes = logits.probabilities(temperature), {}
    if logits.mixed.shape[1] > VALIDATION_COMPOSITES:
        outcomes["edited"] = logits.right()["mixed_rand"]
    if logits.covered is not None:
        covered, share = replace(logits, mixed=logits.covered), VALIDATION_COMPOSITES / logits.mixed.shape[1]
        outcomes["covered"] = np.nan_to_num(covered.right()["mixed_rand"])
        # Of the composites, this share has another background; the others keep their own.
        outcomes["covered_probability"] = share * np.nan_to_num(covered.probabilities(temperature)["mixed_rand"])
    return outcomes | {
        "usual": right["original"],
        "other": right["mixed_rand"],
        "usual_probability": probability["original"],
        "other_probability": probability["mixed_rand"],
    }


VALIDATION_COMPOSITES = 4  # of each image
COMPOSITES_SHARE = 0.75  # share of the weights in a fit that composites have
MAX_ITERATIONS = 200  # of L-BFGS, which needs fewer, except for the smallest penalty
SOLVER = {"tolerance_grad": 1e-5, "tolerance_change": 1e-12, "history_size": 10}
TINY = 1e-12  # stands for the norm of features that are 0 for all images
FIT_PENALTIES = (1e-6, 1e-5, 1e-4)
# Name and interpolation weight of the new layer that a training begins with; no validation image of the user chooses it.
START = (f"layer fitted to the label, penalty {FIT_PENALTIES[0]:g}", 0.5)


class Layer(NamedTuple):
    """A linear layer: `weight` `(C, D)` and `bias` `(C,)`."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weight.T + self.bias

    def interpolated(self, other: "Layer", weight: float) -> "Layer":
        """The layer at this interpolation weight between this layer (0) and another (1)."""
        return Layer(*((1 - weight) * own + weight * theirs for own, theirs in zip(self, other, strict=True)))


class Features(NamedTuple):
    """Inputs of the last layer for the training and validation images and their composites, and whether each image has
    an unusual background `(N,)`."""

    last: LastLayer
    train: Outputs
    validation: Outputs
    train_unusual: np.ndarray
    validation_unusual: np.ndarray

    @property
    def layer(self) -> Layer:
        return Layer(*(values.cpu().double().numpy() for values in (self.last.weight, self.last.bias)))


def training_composites(num_images: int) -> int:
    """Number of composites of each training image (experiments/layers.md)."""
    return min(12, max(2, 1200 // num_images))


def compute_features(
    train: Session, validation: Session, pool: datasets.Dataset | None = None, attributes: Sequence[str] = ()
) -> Features:
    """Compute the features of the original model, or read them from the cache. `pool` has the backgrounds of the training images."""
    side = train.sides["before"]
    last, (rows,) = LastLayer(side.model.eval(), input_size(side.processor)), train.sets.values()
    of_train = composite_outputs(side, train, training_composites(len(rows.dataset)), last, pool, attributes)
    of_validation = composite_outputs(side, validation, VALIDATION_COMPOSITES, last, attributes=attributes, edit=MOVED)
    return Features(last, of_train, of_validation, *unusual_backgrounds(of_train, of_validation))


def layer_candidates(side: Side, features: Features, facts: Mapping, train: object = None) -> list[Candidate]:
    """The original model, followed by each new layer at each interpolation weight."""
    own, validation = features.layer, features.validation

    def outputs(layer: Layer, weight: float) -> Outputs:
        return validation.mapped(own.interpolated(layer, weight).logits)

    def build(layer: Layer, weight: float, name: str) -> tuple[PreTrainedModel, dict[str, dict]]:
        model = deepcopy(side.model).float()  # of which half would round the new layer
        between = (torch.from_numpy(values).float() for values in own.interpolated(layer, weight))
        features.last.of(model).replace(*(values.to(model.device) for values in between))
        run = describe_model(model, side.processor, dict(facts), train) | {"seconds": None}  # nothing was trained
        run["training"] = {"last layer": name, "interpolation weight of the new layer": f"{weight:g}"}
        return model, {RUN_FILE: run}

    candidates = [Candidate.of(validation.mapped(own.logits))]
    counts = half_of_the_weight(features.train_unusual)
    for name, layer in new_layers(own, features.train, features.last.has_bias, counts):
        for weight in INTERPOLATION_WEIGHTS:
            made = {"outputs": partial(outputs, layer, weight), "build": partial(build, layer, weight, name)}
            candidates.append(Candidate.of(outputs(layer, weight), name=name, weight=weight, **made))
    return candidates


def half_of_the_weight(unusual: np.ndarray) -> np.ndarray:
    """How often images `(N,)` count, so that those with unusual backgrounds have at least half of the weight
    (docs/results.md), as groups have in https://huggingface.co/papers/2204.02937."""
    return np.where(unusual, max(1.0, (~unusual).sum() / max(1, unusual.sum())), 1.0)


def new_layers(
    layer: Layer, features: Outputs, has_bias: bool, counts: np.ndarray | None = None
) -> Iterator[tuple[str, Layer]]:
    """New layers by name, fitted to the original model's output and to the labels. Fits do not change classes without images, nor the mean logit
    of the others (the gradients of a softmax add up to 0)."""
    classes = np.unique(features.labels)
    part = Layer(layer.weight[classes], layer.bias[classes])
    outputs = softmax(part.logits(features.original.astype(float)), axis=1)
    labels = np.eye(len(layer.bias))[features.labels][:, classes]
    for penalty in FIT_PENALTIES:
        for target, probabilities in {"output": outputs, "label": labels}.items():
            fitted = Layer(*(values.copy() for values in layer))
            new = fit_layer(part, features, probabilities, penalty, has_bias, counts)
            for values, changed in zip(fitted, new, strict=True):
                values[classes] = changed
            yield f"layer fitted to the {target}, penalty {penalty:g}", fitted


def fit_layer(
    start: Layer,
    features: Outputs,
    targets: np.ndarray,
    penalty: float,
    has_bias: bool = True,
    counts: np.ndarray | None = None,
) -> Layer:
    """Multinomial logistic regression on images and composites, which begins with a given layer, by L-BFGS: the minimum of

        Σ weight · cross-entropy(softmax(W f + b), target) + penalty / 2 · (s² ‖W − W₀‖² + ‖b − b₀‖²)

    with s² the mean squared norm of the features. Composites have [`COMPOSITES_SHARE`] of the weights. `targets` `(N, C)` are the
    probabilities for an image and all its composites. The bias is fitted only if `has_bias`. Each image and its
    composites count as often as `counts` `(N,)` says."""
    known = ~np.isnan(features.mixed[..., 0])
    inputs = np.concatenate([features.original, features.mixed[known]]).astype(float)
    of_images = np.ones(len(known)) if counts is None else counts
    of_composites = np.repeat(of_images, known.sum(axis=1))
    shares = [(1 - COMPOSITES_SHARE) / of_images.sum(), COMPOSITES_SHARE / of_composites.sum()]
    weights = np.concatenate([shares[0] * of_images, shares[1] * of_composites])[:, None]
    targets = weights * np.concatenate([targets, np.repeat(targets, known.sum(axis=1), axis=0)])
    first, scale = start.logits(inputs), max(np.sqrt((inputs**2).sum(axis=1).mean()), TINY)
    inputs = np.concatenate([inputs / scale, np.full((len(inputs), 1), float(has_bias))], axis=1)
    # In fp32, this takes half the time, and the minimum moves by less than the solver's tolerance.
    x, first, targets, weights = (torch.from_numpy(of).float() for of in (inputs, first, targets, weights))
    change = torch.zeros(start.bias.size, inputs.shape[1], dtype=torch.float64)  # of the weights, and of the bias

    def loss() -> torch.Tensor:
        log_probabilities = torch.log_softmax(first + x @ change.float().T, 1)
        change.grad = ((weights * log_probabilities.exp() - targets).T @ x).double() + penalty * change
        return -(targets * log_probabilities).sum(dtype=torch.float64) + penalty / 2 * change.square().sum()

    # L-BFGS of scipy takes three times as long on several cores, since its threads and those of torch wait for each other.
    solver = torch.optim.LBFGS([change], max_iter=MAX_ITERATIONS, **SOLVER, line_search_fn="strong_wolfe")
    solver.step(loss)
    change -= change.mean(dim=0)  # this is 0 at the minimum: a softmax does not depend on what all logits share
    weight, bias = change[:, :-1].numpy() / scale, change[:, -1].numpy()
    return Layer(start.weight + weight, start.bias + bias)


def temperature_of(outputs: Outputs) -> float:
    """The temperature with the least cross-entropy on images and composites (https://huggingface.co/papers/1706.04599). It corrects layers
    that soft targets have made less confident than accurate."""
    known = ~np.isnan(outputs.mixed[..., 0])
    logits = [outputs.original, outputs.mixed[known]]
    labels = [outputs.labels, np.broadcast_to(outputs.labels[:, None], known.shape)[known]]

    def loss(log_temperature: float) -> float:
        entropies = [
            -log_softmax(of / np.exp(log_temperature), axis=1)[range(len(of)), wanted].mean()
            for of, wanted in zip(logits, labels, strict=True)
        ]
        return (1 - COMPOSITES_SHARE) * entropies[0] + COMPOSITES_SHARE * entropies[1]

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
