"""What `improve --effort full` gains if lower layers keep more of the original's weights (LiNeS, https://huggingface.co/papers/2410.17146).

    python -m experiments layer_weights --root runs/improve --sets example emoji-1 --bf16

`--root` is the folder of improve.py, whose models and images are taken. The change of the weights of block l of L is multiplied by
a + (1 − a) (l − 1) / (L − 1): by a in the first block and the embeddings, and by 1 in the last block and after it. a = 1 is the model itself.
Beside it, `all` interpolates all weights, with three quarters of the change. Nothing is chosen: all are measured at home and on new
backgrounds. Adds to layer_weights.json beside this script.
"""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification

from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json

from ..scripts import script_parser
from .improve import PLACES, measured


# Interpolation weights by depth, which is 0 in the first block and 1 in the last.
INTERPOLATION_WEIGHTS: dict[str, Callable[[float], float]] = {
    "0": lambda depth: depth,
    "0.5": lambda depth: 0.5 + 0.5 * depth,
    "1": lambda depth: 1.0,
    "all": lambda depth: 0.75,
}


@torch.no_grad()
def write_interpolated(before: Path, after: Path, weight_at: Callable[[float], float], folder: Path) -> None:
    original, model = (AutoModelForImageClassification.from_pretrained(path) for path in (before, after))
    last = model.config.num_hidden_layers - 1
    originals = dict(original.named_parameters())
    for name, parameter in model.named_parameters():
        block = re.search(r"\.layers?\.(\d+)\.", name)
        depth = int(block[1]) / last if block else float("embeddings" not in name)
        parameter.lerp_(originals[name], 1 - weight_at(depth))
    model.save_pretrained(folder)
    for path in before.glob("preprocessor_config.json"):
        (folder / path.name).write_bytes(path.read_bytes())


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    arguments = parser.parse_args()
    file = Path(__file__).with_suffix(".json")
    results = (read_json(file) or {}).get("sets", {})
    for name in arguments.sets:
        folder = arguments.root / name
        for key, weight_at in INTERPOLATION_WEIGHTS.items():
            if key in results.get(name, {}):
                continue
            between = folder / f"interpolated-{key}"
            write_interpolated(folder / "model", folder / "full", weight_at, between)
            places = measured(
                folder / "model", between, folder / "elsewhere", folder / f"measured-{between.name}", arguments.bf16
            )
            results.setdefault(name, {})[key] = {place: places[place] for place in PLACES}
            write_json(file, {"sets": results, **environment()})
            print(name, key, {place: round(100 * places[place]["change"], 1) for place in PLACES}, flush=True)
