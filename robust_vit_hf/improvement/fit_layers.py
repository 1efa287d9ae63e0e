"""Last layers that decide by the object: solved in closed form, or fitted, on features of images and of their composites."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from .composites import Composites


SHARE = 0.75  # of the weight of all images that composites have in a fit
MAX_ITERATIONS = 200  # of L-BFGS; it converges in fewer but for the smallest penalty
SOLVER = {"tolerance_grad": 1e-5, "tolerance_change": 1e-12, "history_size": 10}
TINY = 1e-12  # variance and norm of features that are the same for all images
MAP_PENALTIES, FIT_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0), (1e-6, 1e-5, 1e-4)


class Layer(NamedTuple):
    """A linear layer: `weight` `(C, D)` and `bias` `(C,)`."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits `(…, C)` of features `(…, D)`."""
        return features @ self.weight.T + self.bias

    def mixed(self, other: "Layer", alpha: float) -> "Layer":
        """The layer with a share `alpha` of another."""
        return Layer(*((1 - alpha) * own + alpha * theirs for own, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class LayerSettings:
    """How a layer is made: by the map of the features, or by a fit to the output or the label, named by `variant`."""

    variant: str
    penalty: float

    def __str__(self) -> str:
        return f"{self.variant}, penalty {self.penalty:g}"


def map_out_background(layer: Layer, features: Composites, penalty: float, centred: bool = True) -> Layer:
    """The layer after the linear map of the features that takes composites back to their images. It needs no labels:

        A = argmin Σ ‖A (f(composite) − μ) − (f(image) − μ)‖² + penalty · s · ‖A − I‖²,   W′ = W A,   b′ = b + W (μ − A μ)

    with the mean μ of the images' features, or 0 if not `centred`, for a layer without bias; and the mean variance s of a component
    of a composite's features. It is ridge regression towards the identity, solved at once."""
    mean = features.original.mean(axis=0) * centred
    known = ~np.isnan(features.mixed[..., 0])
    mixed = (features.mixed[known] - mean).astype(float)
    original = np.repeat(features.original - mean, known.sum(axis=1), axis=0)
    covariance = mixed.T @ mixed / len(mixed)
    ridge = penalty * max(np.trace(covariance) / len(mean), TINY) * np.eye(len(mean))
    matrix = np.linalg.solve(covariance + ridge, mixed.T @ original / len(mixed) + ridge).T
    return Layer(layer.weight @ matrix, layer.bias + layer.weight @ (mean - matrix @ mean))


def fit_layer(start: Layer, features: Composites, targets: np.ndarray, penalty: float) -> Layer:
    """Multinomial logistic regression on images and composites from a given layer on, by L-BFGS: the minimum of

        Σ weight · cross-entropy(softmax(W f + b), target) + penalty / 2 · (s² ‖W − W₀‖² + ‖b − b₀‖²)

    with s² the mean squared norm of the features. Composites have [`SHARE`] of the weight.

    Args:
        targets: `(N, C)` probabilities of an image and of all its composites.
    """
    known = ~np.isnan(features.mixed[..., 0])
    inputs = np.concatenate([features.original, features.mixed[known]]).astype(float)
    weights = np.repeat([(1 - SHARE) / len(known), SHARE / known.sum()], [len(known), known.sum()])[:, None]
    targets = weights * np.concatenate([targets, np.repeat(targets, known.sum(axis=1), axis=0)])
    first, scale = start.logits(inputs), max(np.sqrt((inputs**2).sum(axis=1).mean()), TINY)
    inputs = np.concatenate([inputs / scale, np.ones((len(inputs), 1))], axis=1)
    # fp32 takes half the time; the minimum moves by less than the solver's tolerance.
    x, first, targets, weights = (torch.from_numpy(of).float() for of in (inputs, first, targets, weights))
    change = torch.zeros(start.bias.size, inputs.shape[1], dtype=torch.float64)  # of weights and bias

    def loss() -> torch.Tensor:
        log_probabilities = torch.log_softmax(first + x @ change.float().T, 1)
        change.grad = ((weights * log_probabilities.exp() - targets).T @ x).double() + penalty * change
        return -(targets * log_probabilities).sum(dtype=torch.float64) + penalty / 2 * change.square().sum()

    # That of scipy takes three times as long on several cores: its threads and those of torch wait for each other.
    solver = torch.optim.LBFGS([change], max_iter=MAX_ITERATIONS, **SOLVER, line_search_fn="strong_wolfe")
    solver.step(loss)
    weight, bias = change[:, :-1].numpy() / scale, change[:, -1].numpy()
    return Layer(start.weight + weight, start.bias + bias)


def temperature_of(outputs: Composites) -> float:
    """Temperature, by which these logits are divided, of the least cross-entropy with the labels on images and their composites, which
    have [`SHARE`] of the weight. Soft targets make a layer less sure than it is right; predictions do not depend on it.

    Source: https://huggingface.co/papers/1706.04599
    """
    known = ~np.isnan(outputs.mixed[..., 0])
    logits = [outputs.original, outputs.mixed[known]]
    labels = [outputs.labels, np.broadcast_to(outputs.labels[:, None], known.shape)[known]]

    def loss(log_temperature: float) -> float:
        entropies = [
            -log_softmax(of / np.exp(log_temperature), axis=1)[range(len(of)), wanted].mean()
            for of, wanted in zip(logits, labels, strict=True)
        ]
        return (1 - SHARE) * entropies[0] + SHARE * entropies[1]

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def new_layers(layer: Layer, features: Composites, has_bias: bool) -> Iterator[tuple[LayerSettings, Layer]]:
    """New layers by their settings: of the map, and fits from the given layer on, to the original's output and to the labels."""
    for penalty in MAP_PENALTIES:
        yield LayerSettings("map", penalty), map_out_background(layer, features, penalty, has_bias)
    outputs = softmax(layer.logits(features.original.astype(float)), axis=1)
    labels = np.eye(len(layer.bias))[features.labels]
    for penalty in FIT_PENALTIES:
        yield LayerSettings("layer fitted to the output", penalty), fit_layer(layer, features, outputs, penalty)
        yield LayerSettings("layer fitted to the label", penalty), fit_layer(layer, features, labels, penalty)
