"""Options of `robust-vit segment`."""

from typing import get_args

from ..data.benchmarks import benchmarks
from ..data.registry import image_sets
from ..models.preprocessing import Preset
from ..relevance.method_names import ATTRIBUTION_METHOD_NAMES
from .parser import Parser, add_evaluation_options, named_source, run_evaluation


DESCRIPTION = """Measure how well relevance maps cover the object, before and after finetuning and by several attribution methods: the paper's
Table 3.

  robust-vit segment --compare runs/emoji-shift                      the bundled model and images
  robust-vit segment --model vit-b --compare runs/vit-b --set imagenet-segmentation=gtsegs_ijcv.mat \\
      --output_dir runs/vit-b-segmentation

Images are squashed to the model's size, maps explain the predicted class and are thresholded at their mean. A model that is
finished is not measured again: an interrupted run resumes when it is started again."""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit segment", description=DESCRIPTION)
    own_data = "images with masks of your own, as for `robust-vit train`"
    add_evaluation_options(parser, own_data, output_dir="runs/segmentation")
    masked = [*benchmarks(), *(name for name, image_set in image_sets().items() if "mask" in image_set.columns)]
    parser.add_argument(
        "--set",
        type=named_source,
        metavar="NAME[=PATH_OR_ID]",
        help=f"{', '.join(masked)}; from a source of `robust-vit data prepare` or from its output (default: {masked[0]})",
    )
    parser.add_argument(
        "--methods", nargs="+", choices=ATTRIBUTION_METHOD_NAMES, default=list(ATTRIBUTION_METHOD_NAMES)
    )
    parser.add_argument(
        "--preset", choices=get_args(Preset), default="paper", help="statistics that images are normalised with"
    )
    arguments = parser.parse_args(argv)
    if arguments.set and arguments.dataset:
        parser.error("give one set: --set or --dataset")
    arguments.set = arguments.set or (masked[0], None)
    if not arguments.dataset and arguments.set[0] not in masked:
        parser.error(
            f"unknown set `{arguments.set[0]}`, or one without masks: expected {', '.join(masked)}. For your own, give "
            "--dataset"
        )

    from ..evaluation.segmentation import evaluate_segmentation

    run_evaluation(evaluate_segmentation, arguments, "results.json, table and attribution.png")
