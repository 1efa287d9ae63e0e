"""How well the maps of a CNN (LayerCAM) and of a ViT (relevance) cover objects, on photographs with masks drawn by
people.

    python -m experiments class_maps --imagen imagen --samples samples --ecssd ECSSD --root runs/real-photographs

The folders are those of `real_photographs`. No package has a ViT with a head for ImageNet. So the last layers of the
ViT, DINOv2-S, and of a CNN, EfficientNet-Lite0, are fitted in the same way, to three photographs of each of 150
classes; the CNN is measured with its own head too. Maps are of the predicted class, on squashed images. `centre` is a
map that sees no image: 1 in the centre, falling with the distance.

Writes class_maps.json next to this script, and the picture of photographs of scikit-image, docs/class_maps.jpg.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn
from torchvision.transforms.v2 import functional
from tqdm.auto import tqdm

from robust_vit_hf.data.emoji_shift import background
from robust_vit_hf.metrics.streaming import RelevanceSegmentation
from robust_vit_hf.models.emoji_shift_model import load_backbone
from robust_vit_hf.models.last_layer import LastLayer
from robust_vit_hf.models.loading import with_new_head
from robust_vit_hf.relevance.layer_cam import class_map, map_name
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json
from robust_vit_hf.utils.images import overlay, save_picture_grid, upright_image

from ..makers.biased_cnn import load_efficientnet
from ..scripts import script_parser
from .real_photographs import Photographs


RESULTS = Path(__file__).with_suffix(".json")
PICTURE = Path(__file__).parents[2] / "docs" / "class_maps.jpg"
SIDE, STEP = 224, 4  # pixels, and every fourth photograph of ECSSD
SHOWN = ("chelsea", "coffee", "motorcycle", "rocket")  # photographs of scikit-image
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}


def pixels_of(image: Image.Image) -> torch.Tensor:
    """An image, squashed, `(3, 224, 224)` in [0, 1]."""
    return functional.pil_to_tensor(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255


def fitted(model: nn.Module, scale: dict, paths: Sequence[Path], labels: Sequence[int], names: list[str]) -> nn.Module:
    """The model with a logistic regression on its features as its last layer."""
    with_new_head(model, names).eval()
    layer, features = LastLayer(model, (SIDE, SIDE)), []
    with torch.no_grad():
        for path in tqdm(paths, f"features of {type(model).__name__}"):
            pixels = functional.normalize(pixels_of(upright_image(path)), **scale)
            features.append(layer.outputs(pixels[None])[1][0])
    regression = LogisticRegression(max_iter=2000).fit(torch.stack(features).numpy(), labels)
    layer.replace(*(torch.from_numpy(part).float() for part in (regression.coef_, regression.intercept_)))
    return model


def models(photographs: Photographs) -> dict[str, tuple[nn.Module, dict]]:
    """Models by name, with the mean and standard deviation of their pixels."""
    paths, labels = [], []
    for label, wnid in enumerate(photographs.common):
        paths += photographs.parts["train"][wnid]
        labels += [label] * len(photographs.parts["train"][wnid])
    given = paths, labels, photographs.common
    return {
        "DINOv2-S, fitted head": (fitted(load_backbone(), IMAGENET, *given), IMAGENET),
        "EfficientNet-Lite0, fitted head": (fitted(load_efficientnet(), HALF, *given), HALF),
        "EfficientNet-Lite0": (load_efficientnet(), HALF),
    }


def centre(pixels: torch.Tensor) -> torch.Tensor:
    y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, SIDE)], indexing="ij")
    return (1 - (x**2 + y**2).sqrt()).expand(len(pixels), 1, -1, -1)


def measured(map_of: Callable[[torch.Tensor], torch.Tensor], ecssd: Path, name: str) -> dict:
    """Scores of [`RelevanceSegmentation`] on photographs of ECSSD."""
    segmentation = RelevanceSegmentation()
    for drawn in tqdm(sorted((ecssd / "ground_truth_mask").glob("*.png"))[::STEP], name):
        image = upright_image(next((ecssd / "images").glob(f"{drawn.stem}.*")))
        mask = Image.open(drawn).convert("L").resize((SIDE, SIDE), Image.Resampling.NEAREST)
        segmentation.update(map_of(pixels_of(image)[None]), np.asarray(mask)[None] / 255)
    return segmentation.compute()


def main() -> None:
    parser = script_parser(__doc__)
    for name in ("imagen", "samples", "ecssd", "root"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shown = torch.stack([pixels_of(background(name)) for name in SHOWN])
    columns = [("photograph", shown)]
    scores = {"centre": {"map": "centre"} | measured(centre, arguments.ecssd, "centre")}
    for name, (model, scale) in models(Photographs(arguments.imagen, arguments.samples, arguments.root)).items():

        def map_of(pixels: torch.Tensor, model: nn.Module = model, scale: dict = scale) -> torch.Tensor:
            return class_map(model, functional.normalize(pixels, **scale)).relevance.detach()

        scores[name] = {"map": map_name(model)} | measured(map_of, arguments.ecssd, name)
        columns.append((f"{map_name(model)}\n{name}".replace(", ", "\n"), overlay(shown, map_of(shown))))
    write_json(RESULTS, {"scores": scores, "made with": environment()})
    grid = [[(title, of[row].permute(1, 2, 0).numpy()) for title, of in columns] for row in range(len(SHOWN))]
    save_picture_grid(grid, PICTURE)
