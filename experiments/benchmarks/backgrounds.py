"""Time of `diagnose`, compared with the forward passes that it needs on tensors in memory.

    python -m experiments backgrounds --output_dir runs/benchmarks
    python -m experiments backgrounds --output_dir runs/benchmarks/cnn --model runs/improve/cnn-0/model  # a CNN: backgrounds_cnn.json

Both run in turn within one process, so that what else the machine does hits both; the ratio is a median over the rounds. `diagnose`
reads and composes the images of emoji-shift `val` in seven conditions, without relevance maps.
"""

import json
import statistics
import time
from pathlib import Path

import torch

from robust_vit_hf.data.background_edits import CONDITIONS
from robust_vit_hf.data.emoji_shift import load_split
from robust_vit_hf.data.transforms import eval_transform
from robust_vit_hf.evaluation.other_backgrounds import Backgrounds
from robust_vit_hf.evaluation.session import Session, Side
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.models.image_processors import load_processor
from robust_vit_hf.models.loading import load_model
from robust_vit_hf.relevance.relevance_map import forward_logits
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json
from robust_vit_hf.utils.processes import make_accelerator

from ..scripts import script_parser


BATCH_SIZE = 32


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model", default="emoji-shift", help="classifier of the classes of emoji-shift")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    accelerator = make_accelerator(arguments.bf16)
    model = load_model(arguments.model).to(accelerator.device).eval()
    processor = load_processor(arguments.model, "paper" if arguments.model == "emoji-shift" else "model", model)
    side, images = Side.of(model, processor), load_split("val", arguments.images)
    session = Session({"before": side}, {}, accelerator, passes=(BATCH_SIZE, 0))
    batch = images.with_transform(eval_transform(processor))[:]["pixel_values"]
    pixel_values = torch.stack(batch).to(accelerator.device).split(BATCH_SIZE)

    def passes() -> None:
        with torch.no_grad(), accelerator.autocast():
            for _ in CONDITIONS:
                for values in pixel_values:
                    forward_logits(model, values)

    def diagnose() -> None:
        Backgrounds(relevance=False).measure(side, EvaluationSet.of(images), session, "val", None)

    seconds: dict[str, list[float]] = {"passes": [], "diagnose": []}
    for _ in range(arguments.rounds):
        for name, run in {"passes": passes, "diagnose": diagnose}.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    ratio = statistics.median(one / two for one, two in zip(seconds["diagnose"], seconds["passes"], strict=True))
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    results = {"ratio": ratio, "seconds": seconds, "images": arguments.images, **environment()}
    write_json(arguments.output_dir / "backgrounds.json", results)
    print(json.dumps({"ratio": round(ratio, 3), "passes": statistics.median(seconds["passes"])}))
