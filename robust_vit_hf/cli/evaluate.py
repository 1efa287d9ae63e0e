"""Options of `robust-vit evaluate`."""

from typing import get_args

from ..models.preprocessing import Preset
from .parser import Parser, add_evaluation_options, add_sets, chosen_sets, run_evaluation


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
    parser = Parser(prog="robust-vit evaluate", description=DESCRIPTION)
    own_data = "images of your own with the column `label`, and `mask` if there are any"
    add_evaluation_options(parser, own_data, output_dir="runs/robustness")
    add_sets(parser)
    parser.add_argument("--protocols", nargs="+", choices=get_args(Preset), default=list(get_args(Preset)))
    parser.add_argument(
        "--training_data", help="images that --compare was finetuned on, whose classes are shown apart"
    )
    parser.add_argument("--train_split", default="train", help="split of --training_data")
    arguments = parser.parse_args(argv)
    arguments.sets = chosen_sets(parser, arguments)
    if arguments.training_data and not arguments.compare:
        parser.error("--training_data shows classes apart for the model after finetuning: name it with --compare")

    from ..evaluation.robustness import evaluate_robustness

    run_evaluation(
        evaluate_robustness, arguments, "results.json, tables, plots, examples and the predictions of each image"
    )
