"""Options of `robust-vit convert`."""

from typing import get_args

from ..models.preprocessing import Preset
from .parser import Parser, add_output_dir, count


DESCRIPTION = """Convert ViT and DeiT weights of timm to model folders of transformers, and back, bit for bit.

  robust-vit convert timm/vit_base_patch16_224.augreg_in21k_ft_in1k --output_dir models/augreg-b
  robust-vit convert checkpoint.pth.tar --output_dir models/released --image_size 384
  robust-vit convert models/augreg-b --to timm --output_dir models/augreg-b-timm"""


def run(argv: list[str]) -> None:
    parser = Parser(prog="robust-vit convert", description=DESCRIPTION)
    parser.add_argument("source", help="file of weights, checkpoint, folder, Hub id, or name of a model of the paper")
    add_output_dir(parser)
    parser.add_argument("--to", choices=["hf", "timm"], default="hf", help="format to write (default: hf)")
    parser.add_argument("--image_size", type=count, help="another side of the images: interpolate position embeddings")
    parser.add_argument("--num_heads", type=count, help="attention heads, for weights of an unusual size")
    parser.add_argument("--preset", choices=get_args(Preset), help="image processor to save (default: paper)")
    parser.add_argument(
        "--statistics",
        choices=["imagenet", "half"],
        help="mean and standard deviation of the native preset, or of timm's configuration, if the source has none",
    )
    arguments = parser.parse_args(argv)
    if arguments.to == "timm" and (arguments.image_size or arguments.num_heads or arguments.preset):
        parser.error("--image_size, --num_heads and --preset do not go with --to timm")
    if arguments.to == "hf" and arguments.statistics and arguments.preset != "native":
        parser.error("--statistics goes with --preset native; the paper's preset has its own")

    from ..models.conversion import convert_to_timm, convert_to_transformers

    output = arguments.output_dir
    if arguments.to == "timm":
        model = convert_to_timm(arguments.source, output, arguments.statistics)
    else:
        options = {name: getattr(arguments, name) for name in ("image_size", "num_heads", "statistics")}
        model = convert_to_transformers(arguments.source, output, arguments.preset or "paper", **options)
    print(f"{output}: {model.num_parameters():,} parameters of {type(model).__name__}")
