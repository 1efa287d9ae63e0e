"""Train the linear layer of robust_vit_hf/masks/foreground_layer.py on photographs without masks.

    python -m experiments train_foreground_layer PHOTOGRAPHS --output robust_vit_hf/masks/foreground_layer.safetensors

The layer begins as a logistic regression of the patches in the middle of the photographs against those at the border,
and is trained again on its own smoothed scores, split half-way between the extremes of each image. Images in which
these hold three corners, or more than three quarters, are left out of a round (as FOUND does,
https://huggingface.co/papers/2212.07834). The bundled layer was trained on one photograph of each of 850 classes of
ImageNet (the repository EliSchwartz/imagenet-sample-images on GitHub, without the classes of ajschumacher/imagen).
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from tqdm.auto import tqdm

from robust_vit_hf.masks.foreground_layer import ForegroundLayer
from robust_vit_hf.masks.tokencut import TokenCut, num_corners
from robust_vit_hf.utils.images import upright_image

from ..scripts import script_parser


ROUNDS, PATCHES = 8, 30  # and patches of either kind that are drawn from an image
PENALTY = 0.01  # inverse strength of the regression's L2 penalty
MIDDLE = 0.2  # half of the middle's share of each side
LARGEST, SMALLEST = 0.75, 0.01  # shares of an image that an object may have


def hidden_states(paths: list[Path]) -> list[torch.Tensor]:
    """Last hidden states `(h, w, 384)` of photographs that are resized to a longer side of 448 pixels."""
    cut, states = TokenCut.from_pretrained("emoji-shift"), []
    for path in tqdm(paths, "features"):
        image = upright_image(path)
        scale = cut.max_side / max(image.size)
        image = image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.LANCZOS)
        grid = cut.grid(image)
        states.append(cut.features([image], grid).hidden[0].unflatten(0, grid))
    return states


def middle_and_border(height: int, width: int) -> np.ndarray:
    """Labels `(h, w)` of patches: 1 in the middle, 0 at the border, -1 elsewhere."""
    y, x = np.mgrid[:height, :width]
    far = np.maximum(abs((y + 0.5) / height - 0.5), abs((x + 0.5) / width - 0.5))
    labels = np.where(far < MIDDLE, 1, -1)
    labels[[0, -1]] = labels[:, [0, -1]] = 0
    return labels


def fit(states: list[torch.Tensor], labels: list[np.ndarray], generator: np.random.Generator) -> ForegroundLayer:
    """Logistic regression on patches drawn from each image, standardised."""
    inputs, targets = [], []
    for state, of_image in zip(states, labels, strict=True):
        for label in (1, 0):
            (known,) = np.nonzero(of_image.ravel() == label)
            drawn = generator.choice(known, min(PATCHES, len(known)), replace=False)
            inputs.append(state.flatten(0, 1)[drawn].numpy())
            targets.append(np.full(len(drawn), label))
    features = np.concatenate(inputs)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    regression = LogisticRegression(C=PENALTY, max_iter=200)
    regression.fit((features - mean) / scale, np.concatenate(targets))
    weight = regression.coef_[0] / scale
    bias = regression.intercept_[0] - weight @ mean
    return ForegroundLayer(torch.tensor(weight).float(), torch.tensor(bias).float())


def train(states: list[torch.Tensor], seed: int = 0) -> ForegroundLayer:
    """The layer after all rounds."""
    generator = np.random.default_rng(seed)
    layer = fit(states, [middle_and_border(*state.shape[:2]) for state in states], generator)
    for number in range(ROUNDS):
        kept, masks = [], []
        for state in states:
            scores = layer.scores(state.flatten(0, 1)[None])[0]
            mask = (scores > (scores.max() + scores.min()) / 2).view(state.shape[:2]).numpy()
            if num_corners(mask) < 3 and SMALLEST <= mask.mean() <= LARGEST:
                kept.append(state)
                masks.append(mask.astype(int))
        layer = fit(kept, masks, generator)
        print(f"round {number + 1}: {len(kept)} of {len(states)} images", flush=True)
    return layer


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("photographs", type=Path, help="folder")
    parser.add_argument("--output", type=Path, required=True, help="file of the layer")
    arguments = parser.parse_args()
    layer = train(hidden_states(sorted(path for path in arguments.photographs.iterdir() if path.is_file())))
    save_file(layer._asdict(), arguments.output, {"source": "python -m experiments train_foreground_layer"})
