"""Options of `robust-vit sis`."""

from pathlib import Path
from typing import get_args

from ..models.preprocessing import Preset
from ..utils.options import Range
from .parser import Parser, add_output_dir, add_pair_options, add_sets, chosen_sets, count, number, run_evaluation


DESCRIPTION = """Find sufficient input subsets (SIS): few pixels of an image that are enough for a confident prediction of a class, of the
label or of any other: the paper's Figure 5.

  robust-vit sis --compare runs/emoji-shift                          the bundled model and sets, before and after finetuning
  robust-vit sis --images dog.jpg --classes dog bicycle              any image and any class
  robust-vit sis --model vit-b --sets imagenet-1k=sets/imagenet-1k --classes gibbon shovel --output_dir runs/vit-b-sis

Pixels are masked by their gradients, in steps of two passes. Batches that are finished are not computed again: an interrupted run
resumes when it is started again."""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit sis", description=DESCRIPTION)
    add_pair_options(parser, "images of your own, with or without the columns `label` and `mask`")
    add_sets(parser)
    parser.add_argument("--images", nargs="+", type=Path, default=[], metavar="FILE", help="image files")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="names or ids of classes, each for every image (default: the label of each image)",
    )
    parser.add_argument(
        "--num_images", type=count, default=20, help="images of each set, evenly spaced over it (default: 20)"
    )
    parser.add_argument(
        "--preset", choices=get_args(Preset), default="paper", help="statistics that images are normalised with"
    )
    parser.add_argument(
        "--threshold",
        type=number(float, Range(0, 1, above=True)),
        default=0.9,
        help="probability that a subset must reach (default: 0.9)",
    )
    parser.add_argument(
        "--pixels_per_step", type=count, default=100, help="pixels that a step masks in each image (default: 100)"
    )
    parser.add_argument(
        "--batch_size", type=count, default=8, help="pairs of an image and a class at once (default: 8)"
    )
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    add_output_dir(parser, "runs/sis")
    arguments = parser.parse_args(argv)
    if arguments.sets is None and arguments.images:
        arguments.sets = []
    arguments.sets = chosen_sets(parser, arguments)
    if arguments.images and not arguments.classes:
        parser.error("--images have no labels: name the classes with --classes")

    from ..evaluation.sis import evaluate_subsets

    run_evaluation(evaluate_subsets, arguments, "results.json, table, sis.png and the subsets of each batch")
