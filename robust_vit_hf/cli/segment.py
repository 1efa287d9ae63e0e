"""Options of `robust-vit segment`."""

import argparse
from pathlib import Path
from typing import get_args

from ..data.benchmarks import benchmarks
from ..data.registry import image_sets
from ..models.presets import Preset
from ..models.registry import MODELS
from ..relevance.method_names import ATTRIBUTION_METHOD_NAMES
from .parser import Parser, add_evaluation_options, add_output_dir, named_source


DESCRIPTION = """Measure how well relevance maps cover the object, before and after finetuning and by several attribution methods: the paper's
Table 3.

  robust-vit segment --compare runs/emoji-shift                      the bundled model and images
  robust-vit segment --model vit-b --compare runs/vit-b --set imagenet-segmentation=gtsegs_ijcv.mat \\
      --output_dir runs/vit-b-segmentation

Images are squashed to the model's size, maps explain the predicted class and are thresholded at their mean. A model that is
finished is not measured again: an interrupted run resumes when it is started again."""


def run(argv: list[str]) -> None:
    arguments = parse_arguments(argv)

    from ..evaluation.segmentation import evaluate_segmentation
    from ..utils.processes import leave, make_accelerator

    accelerator = make_accelerator(arguments.bf16)
    name, source = (None, arguments.dataset) if arguments.dataset else arguments.set
    table = evaluate_segmentation(
        arguments.model,
        arguments.compare,
        name,
        source,
        arguments.output_dir,
        accelerator,
        split=arguments.split if arguments.dataset else None,
        methods=arguments.methods,
        preset=arguments.preset,
        paper_model=arguments.paper_model,
        images_per_set=arguments.images_per_set,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        settings={key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()},
    )
    if table:
        print(f"\n{table}\nresults.json, table and attribution.png: {arguments.output_dir}")
    leave(accelerator.device, accelerator.num_processes)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="robust-vit segment", description=DESCRIPTION)
    masked = [*benchmarks(), *(name for name, image_set in image_sets().items() if "mask" in image_set.features)]
    parser.add_argument("--model", default="emoji-shift", help="name, folder or Hub id; the bundled model by default")
    parser.add_argument("--compare", help="the model after finetuning")
    parser.add_argument(
        "--set",
        type=named_source,
        metavar="NAME[=PATH_OR_ID]",
        help=f"{', '.join(masked)}; from a place that `robust-vit data prepare` takes, or from what it wrote (default: "
        f"{masked[0]})",
    )
    parser.add_argument("--dataset", help="images with masks of your own, as for `robust-vit train`")
    parser.add_argument("--split", default="validation", help="split of --dataset")
    parser.add_argument(
        "--methods", nargs="+", choices=ATTRIBUTION_METHOD_NAMES, default=list(ATTRIBUTION_METHOD_NAMES)
    )
    parser.add_argument(
        "--preset", choices=get_args(Preset), default="paper", help="statistics that images are normalised with"
    )
    parser.add_argument(
        "--paper_model",
        choices=[entry.paper_name for entry in MODELS.values() if entry.paper_name],
        help="which of the paper's models --model is; by default known from what it is",
    )
    add_evaluation_options(parser)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    add_output_dir(parser, "runs/segmentation")
    arguments = parser.parse_args(argv)
    if arguments.set and arguments.dataset:
        parser.error("give one set: --set or --dataset")
    arguments.set = arguments.set or (masked[0], None)
    if not arguments.dataset and arguments.set[0] not in masked:
        parser.error(
            f"unknown set `{arguments.set[0]}`, or one without masks: expected {', '.join(masked)}. For your own, give "
            "--dataset"
        )
    return arguments
