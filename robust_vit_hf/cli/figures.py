"""Options of `robust-vit figures`."""

from pathlib import Path
from typing import get_args

from ..models.preprocessing import Preset
from .parser import (
    Parser,
    add_images_per_set,
    add_output_dir,
    add_pair_options,
    add_sets,
    chosen_sets,
    count,
    count_from_zero,
)


FIGURES = (1, 2, 3, 6, 15)
DESCRIPTION = """Make the paper's Figures 1, 2, 3, 6 and 15, for any pair of models and any set: images with their relevance maps before and after,
as PNG and PDF, and captions with the rule that chose the images.

  robust-vit evaluate --compare runs/emoji-shift --output_dir runs/robustness
  robust-vit figures runs/robustness --compare runs/emoji-shift --output_dir runs/figures
  robust-vit figures runs/vit-b-robustness --model vit-b --compare runs/vit-b --output_dir runs/vit-b-figures \\
      --sets imagenet-a=sets/imagenet-a imagenet-v2=sets/imagenet-v2 --figures 15

Models, sets and --images_per_set are those of the evaluation, whose predictions choose the images."""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit figures", description=DESCRIPTION)
    parser.add_argument("evaluation", type=Path, help="output folder of `robust-vit evaluate` with --compare")
    add_pair_options(
        parser, "images of your own that the evaluation measured, of which Figure 1 takes those with masks", True
    )
    add_sets(parser)
    add_images_per_set(parser)
    parser.add_argument(
        "--protocol", choices=get_args(Preset), default="paper", help="see `robust-vit evaluate --help`"
    )
    parser.add_argument(
        "--figures", nargs="+", type=int, choices=FIGURES, default=list(FIGURES), help="numbers (default: all)"
    )
    parser.add_argument(
        "--target",
        choices=["predicted", "true"],
        default="predicted",
        help="class that the maps explain, but for Figure 1",
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="names or labels of the classes to show (default: all)"
    )
    parser.add_argument("--num_examples", type=count, default=4, help="images of a group (default: 4)")
    parser.add_argument("--seed", type=count_from_zero, default=0, help="of the draw (default: 0)")
    add_output_dir(parser)
    arguments = parser.parse_args(argv)
    arguments.sets = chosen_sets(parser, arguments)

    from ..evaluation.example_figures import CAPTIONS_FILE, make_figures
    from ..utils.processes import make_accelerator

    captions = make_figures(**vars(arguments), accelerator=make_accelerator(bf16=False))
    print(f"\n{captions}\nFigures and {CAPTIONS_FILE}: {arguments.output_dir}")
