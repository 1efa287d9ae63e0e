"""Last layers that decide by the object: fitted on features of images and of their composites, or solved in closed form."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from .features import Features


SHARE = 0.75  # of the weight of all images that the composites have
MAX_ITERATIONS = 200  # of L-BFGS; it converges in fewer


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer: logits `features @ weight.T + bias`, with `weight` `(C, D)` and `bias` `(C,)`, float64."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits `(…, C)` of features `(…, D)`."""
        return features @ self.weight.T + self.bias

    def mixed(self, other: "Layer", alpha: float) -> "Layer":
        """The layer with a share `alpha` of another."""
        return Layer((1 - alpha) * self.weight + alpha * other.weight, (1 - alpha) * self.bias + alpha * other.bias)


def map_out_background(layer: Layer, features: Features, penalty: float) -> Layer:
    """The layer after the linear map of the features that brings composites back to their images, without labels:

        A = argmin Σ ‖A (f(composite) − μ) − (f(image) − μ)‖² + penalty · s · ‖A − I‖²,   W′ = W A,   b′ = b + W (μ − A μ)

    with the mean μ of the images' features and s the mean variance of a composite's feature, which makes the penalty free of scale.
    A is solved at once (ridge regression towards the identity)."""
    mean = features.original.mean(axis=0, dtype=float)
    known = ~np.isnan(features.composites[..., 0])
    composites = features.composites[known] - mean
    images = np.repeat(features.original - mean, known.sum(axis=1), axis=0)
    covariance = composites.T @ composites / len(composites)
    ridge = penalty * np.trace(covariance) / len(mean) * np.eye(len(mean))
    matrix = np.linalg.solve(covariance + ridge, composites.T @ images / len(composites) + ridge).T
    return Layer(layer.weight @ matrix, layer.bias + layer.weight @ (mean - matrix @ mean))


def fit_layer(start: Layer, features: Features, targets: np.ndarray, penalty: float) -> Layer:
    """Multinomial logistic regression on images and composites from a given layer, by L-BFGS: the minimum of

        Σ weights · cross-entropy(softmax(W f + b), target) + penalty / 2 · s² · ‖W − W₀‖²,

    with s² the mean squared norm of a feature. Composites have [`SHARE`] of the weight.

    Args:
        targets: `(N, C)` probabilities of an image and of all its composites, such as the original model's output for the image.
    """
    known = ~np.isnan(features.composites[..., 0])
    values = np.concatenate([features.original, features.composites[known]]).astype(float)
    wanted = np.concatenate([targets, np.repeat(targets, known.sum(axis=1), axis=0)])
    weights = np.concatenate(
        [np.full(len(targets), (1 - SHARE) / len(targets)), np.full(known.sum(), SHARE / known.sum())]
    )
    base = start.logits(values)
    scale = np.sqrt((values**2).sum(axis=1).mean())
    inputs = np.concatenate([values / scale, np.ones((len(values), 1))], axis=1)

    def loss(change: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and gradient of a change `(C, D + 1)` of scaled weights and bias."""
        change = change.reshape(len(start.bias), -1)
        logits, penalised = base + inputs @ change.T, np.append(np.ones(change.shape[1] - 1), 0)
        value = (
            -(weights @ (wanted * log_softmax(logits, axis=1)).sum(axis=1))
            + penalty / 2 * (penalised * change**2).sum()
        )
        gradient = (weights[:, None] * (softmax(logits, axis=1) - wanted)).T @ inputs + penalty * penalised * change
        return value, gradient.ravel()

    begin = np.zeros(len(start.bias) * inputs.shape[1])
    found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": MAX_ITERATIONS})
    change = found.x.reshape(len(start.bias), -1)
    return Layer(start.weight + change[:, :-1] / scale, start.bias + change[:, -1])
