"""Peak memory of a step with linear memory under malloc's own settings, next to those of the other benchmarks.

    python -m experiments allocator     # writes experiments/benchmarks/allocator.json

DeiT-S at 448 px as in `linear_memory.py`, on a CPU. "released early" frees the buffers of a layer's chunks before its gradients
are returned.
"""

from pathlib import Path

from robust_vit_hf.relevance import linear_memory
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json

from ..scripts import script_parser
from .linear_memory import make_step
from .step import peak_memory_elsewhere


RESULTS = Path(__file__).with_suffix(".json")
SIZE, ROUNDS = 448, 3
THRESHOLDS = {"malloc's own": None, "64 KiB": 65536}  # from which malloc returns at once what is freed


def make_step_that_releases(size: int, name: str) -> tuple:
    """A step that frees the buffers of the chunks of a layer after the last one, and not with the layer's gradients."""
    chunks = linear_memory.chunks

    def releasing(*tensors):
        for images, rows, attention, contribution in chunks(*tensors):
            yield images, rows, attention, contribution
        attention.untyped_storage().resize_(0)

    linear_memory.chunks = releasing
    return make_step(size, name)


def main() -> None:
    script_parser(__doc__).parse_args()
    results = {}
    for allocator, threshold in THRESHOLDS.items():
        for kind, make in {"plain": make_step, "linear": make_step, "released early": make_step_that_releases}.items():
            name = "plain" if kind == "plain" else "linear"
            peaks = [peak_memory_elsewhere(make, SIZE, name, threshold=threshold) for _ in range(ROUNDS)]
            results[f"{kind}, {allocator}"] = peaks
            print(kind, allocator, peaks, flush=True)
    write_json(RESULTS, {"pixels": SIZE, "GiB": results, **environment()})
