"""Sufficient input subsets of the bundled model on emoji-shift: Figure 5 of the paper, before and after finetuning.

    python -m experiments subsets --compare runs/sis-model --images 4  # writes subsets.json and sis.png

Figure: 4 images of the set `vendor`, whose artwork may be shown, each with 5 classes that are drawn at random, as in
the paper: is there a subset of a probability of 0.9 or more for each? Summary, if a finetuned model is given: images
of all seven sets with their labels. Time: one pair, as wall time and as CPU time, which other work on the machine
changes less. An interrupted run resumes.
"""

import json
import os
import shutil
import time
from pathlib import Path

import datasets
import numpy as np
import torch

from experiments.paper.options import SubsetOptions
from experiments.paper.sis import find_subsets
from experiments.paper.sufficient_subsets import sufficient_input_subsets
from robust_vit_hf import eval_transform, load_model
from robust_vit_hf.data.emoji_shift import CLASS_NAMES, load_split
from robust_vit_hf.models.image_processors import load_processor
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json

from ..scripts import script_parser


OUTPUT = Path(__file__).with_suffix(".json")
FIGURE = Path(__file__).parents[1] / "sis.png"


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--compare", help="the bundled model after finetuning, for the summary")
    parser.add_argument("--pixels_per_step", type=int, default=100, help="in the figure")
    parser.add_argument("--images", type=int, default=2, help="images of each set in the summary")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/sis-benchmark"))
    arguments = parser.parse_args()

    rows = load_split("vendor", 100).select([10, 35, 60, 85])
    others = sorted(set(range(len(CLASS_NAMES))) - set(rows["label"]))
    classes = np.random.default_rng(0).choice(others, 5, replace=False)
    images = arguments.output_dir / "images"
    datasets.DatasetDict({"vendor": rows}).save_to_disk(images)

    figure = arguments.output_dir / f"figure-{arguments.pixels_per_step}"
    options = SubsetOptions(
        model="emoji-shift",
        dataset=str(images),
        split="vendor",
        classes=[str(index) for index in classes],
        pixels_per_step=arguments.pixels_per_step,
        batch_size=arguments.batch_size,
        output_dir=figure,
    )
    find_subsets(options)
    shutil.copy(figure / "sis.png", FIGURE)
    if arguments.compare:
        options = SubsetOptions(
            model="emoji-shift",
            compare=arguments.compare,
            num_images=arguments.images,
            batch_size=arguments.batch_size,
            output_dir=arguments.output_dir / "sets",
        )
        find_subsets(options)
    model = load_model("emoji-shift")
    pixel_values = torch.stack(eval_transform(load_processor("emoji-shift", "paper", model))(rows[:1])["pixel_values"])
    start, start_of_process = time.perf_counter(), time.process_time()
    sufficient_input_subsets(model, pixel_values, rows[0]["label"])
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - start_of_process}

    results = {
        **environment(),
        "cores_of_the_machine": os.cpu_count(),
        "seconds_of_one_pair": {name: round(value, 1) for name, value in seconds.items()},
        "pixels_per_step": arguments.pixels_per_step,
        "figure": read_json(figure / "results.json")["scores"]["vendor"]["before"],
    }
    if arguments.compare:
        results["sets"] = read_json(arguments.output_dir / "sets" / "results.json")["scores"]
    print(json.dumps(results, indent=2))
    write_json(OUTPUT, results)
