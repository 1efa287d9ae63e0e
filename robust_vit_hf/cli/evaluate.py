"""Options of `robust-vit evaluate`."""

import argparse
from pathlib import Path
from typing import get_args

from ..data.benchmarks import benchmarks
from ..evaluation.set_names import PAPER_SETS
from ..models.presets import Preset
from ..models.registry import MODELS
from .parser import Parser, add_evaluation_options, add_output_dir, check_sets, named_source


DESCRIPTION = """Measure a model, or two (before and after finetuning), on shifted sets: tables in the layout of the paper's Tables 1, 2, 10
and 11, its class plots, and curves over SI-Score's factors.

  robust-vit evaluate --compare runs/emoji-shift                     the bundled model and sets
  robust-vit evaluate --model vit-b --compare runs/vit-b --output_dir runs/vit-b-robustness \\
      --sets imagenet-1k=sets/imagenet-1k imagenet-a=sets/imagenet-a --training_data sets/paper-split

Protocol `paper`: logits are not restricted, images are resized to 256 (bilinear), cropped to 224 and normalised by 0.5, the first
label of an ObjectNet image counts. Protocol `native`: logits are restricted to the classes of the set, images are resized to 248
(bicubic) and normalised as in the pretraining, every label counts, and ObjectNet's red border is cut. Finished sets are not
measured again: an interrupted run resumes when it is started again."""


def run(argv: list[str]) -> None:
    arguments = parse_arguments(argv)

    from ..evaluation.robustness import evaluate_robustness
    from ..utils.processes import leave, make_accelerator

    accelerator = make_accelerator(arguments.bf16)
    tables = evaluate_robustness(
        arguments.model,
        arguments.compare,
        arguments.sets,
        arguments.output_dir,
        accelerator,
        own_data=(arguments.dataset, arguments.split) if arguments.dataset else None,
        training_data=(arguments.training_data, arguments.train_split) if arguments.training_data else None,
        protocols=arguments.protocols,
        paper_model=arguments.paper_model,
        images_per_set=arguments.images_per_set,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        settings={key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()},
    )
    if tables:
        print(f"\n{tables}\nresults.json, tables, plots and the predictions of each image: {arguments.output_dir}")
    leave(accelerator.device, accelerator.num_processes)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="robust-vit evaluate", description=DESCRIPTION)
    parser.add_argument("--model", default="emoji-shift", help="name, folder or Hub id; the bundled model by default")
    parser.add_argument("--compare", help="the model after finetuning")
    parser.add_argument(
        "--sets",
        nargs="+",
        type=named_source,
        metavar="NAME[=PATH_OR_ID]",
        help=f"benchmarks ({', '.join(benchmarks())}: the default) or sets of the paper ({', '.join(PAPER_SETS)}), each from its "
        "place on the Hub or from what `robust-vit data prepare` wrote",
    )
    parser.add_argument("--dataset", help="images of your own with the column `label`, and `mask` if there are any")
    parser.add_argument("--split", default="validation", help="split of --dataset")
    parser.add_argument("--protocols", nargs="+", choices=get_args(Preset), default=list(get_args(Preset)))
    parser.add_argument(
        "--training_data", help="images that --compare was finetuned on, whose classes are shown apart"
    )
    parser.add_argument("--train_split", default="train", help="split of --training_data")
    parser.add_argument(
        "--paper_model",
        choices=[entry.paper_name for entry in MODELS.values() if entry.paper_name],
        help="which of the paper's models --model is; by default known from what it is",
    )
    add_evaluation_options(parser)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    add_output_dir(parser, "runs/robustness")
    arguments = parser.parse_args(argv)
    if arguments.sets is None:
        arguments.sets = [] if arguments.dataset else [(name, None) for name in benchmarks()]
    check_sets(parser, arguments.sets)
    if arguments.training_data and not arguments.compare:
        parser.error("--training_data shows classes apart for the model after finetuning: name it with --compare")
    return arguments
