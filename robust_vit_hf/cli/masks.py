"""Options of `robust-vit masks`."""

import argparse
from pathlib import Path

import datasets

from ..data.registry import image_sets
from ..models.registry import MODELS
from ..utils.options import Range
from .parser import Parser, add_writer_options, count, count_from_zero, number


DESCRIPTION = """Make foreground masks for images that have none: a dataset for `robust-vit train --dataset`.

  robust-vit masks tokencut --images sets/split --output_dir sets/split-tokencut --split train validation
  robust-vit masks tokencut --released --per_class 3 --images sets/ten --output_dir sets/three
  robust-vit masks grounded --images sets/split --output_dir sets/split-sam --prompts parts.json
  robust-vit masks coco --images photos --output_dir photos-masks --annotations instances.json
  accelerate launch trainer/prepare_masks.py …                                          on several GPUs

TokenCut needs no annotation, Grounding DINO with SAM the names of classes or of their parts, COCO files boxes or polygons.
The output is sharded parquet with a dataset card, a contact sheet to look at, and the rejected masks with their reasons
beside it. An interrupted run resumes when it is started again."""


def run(argv: list[str]) -> None:
    arguments = parse_arguments(argv)

    from accelerate import PartialState

    from ..masks.preparation import prepare_masks
    from ..utils.processes import leave

    run_options = (
        "method",
        "images",
        "set",
        "split",
        "output_dir",
        "per_class",
        "skip_bad",
        "rows_per_shard",
        "batch_size",
    )
    counts = prepare_masks(
        arguments.method,
        lambda features: make_masker(arguments, features),
        arguments.images,
        arguments.split,
        arguments.output_dir,
        set_name=arguments.set,
        settings={name: value for name, value in vars(arguments).items() if name not in run_options},
        per_class=arguments.per_class,
        skip_bad=arguments.skip_bad,
        rows_per_shard=arguments.rows_per_shard,
    )
    for split, (kept, rejected) in counts.items():
        print(f"{split}: {kept:,} masks, {rejected:,} rejected")
    if counts:  # in the main process
        print(f"{arguments.output_dir}: parquet, README.md, and contact sheets to look at")
    leave(PartialState().device, PartialState().num_processes)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    common = Parser(add_help=False)
    common.add_argument(
        "--images", required=True, help="images: prepared set, parquet, image folder, Hub id, or name of a benchmark"
    )
    common.add_argument("--set", choices=list(image_sets()), help="read them as this set of the paper, unprepared")
    common.add_argument("--split", nargs="+", default=["train"], help="splits to make masks for")
    common.add_argument(
        "--per_class", type=count, help="take images until each class has this many masks; all images by default"
    )
    add_writer_options(common)

    parser = Parser(prog="robust-vit masks", description=DESCRIPTION)
    methods = parser.add_subparsers(dest="method", required=True)
    method = methods.add_parser("tokencut", parents=[common], help="salient object in the features of a ViT")
    method.add_argument(
        "--model",
        default="facebook/dino-vitb16",
        help="self-supervised ViT: Hub id or folder, or `emoji-shift` for the bundled DINOv2",
    )
    method.add_argument("--batch_size", type=count, default=16, help="images in a forward pass")
    method.add_argument(
        "--min_side", type=count_from_zero, default=224, help="smaller images are enlarged for a finer patch grid"
    )
    method.add_argument(
        "--min_pixels",
        type=count_from_zero,
        default=520,
        help="smaller masks are rejected; RobustViT's limit by default",
    )
    semantics = method.add_mutually_exclusive_group()
    semantics.add_argument("--coarse", action="store_true", help="unions of patches, without the bilateral solver")
    semantics.add_argument(
        "--released",
        action="store_true",
        help="reject what RobustViT's code drops: masks over half of the image, and refined ones unlike the coarse ones",
    )
    method = methods.add_parser("grounded", parents=[common], help="from the name of the class, or of its parts")
    method.add_argument("--detector", default="IDEA-Research/grounding-dino-tiny")
    method.add_argument("--segmenter", default="facebook/sam-vit-base")
    method.add_argument("--prompts", type=Path, help="JSON: class name or wnid to a list of names, such as of parts")
    method.add_argument("--box_threshold", type=number(float, Range(0, 1)), default=0.3)
    method = methods.add_parser("coco", parents=[common], help="from boxes and polygons that you have")
    method.add_argument("--annotations", type=Path, required=True, help="COCO JSON")
    method.add_argument("--category", help="the only category that is foreground; all by default")
    return parser.parse_args(argv)


def make_masker(arguments: argparse.Namespace, features: datasets.Features):
    """Mask maker of the method, on the accelerator if there is one."""
    import torch

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if arguments.method == "coco":
        from ..masks.coco import CocoAnnotations

        return CocoAnnotations(arguments.annotations, arguments.category)
    if arguments.method == "grounded":
        from ..masks.grounded import GroundedSegmentation
        from ..masks.preparation import prompts_of_labels

        return GroundedSegmentation.from_pretrained(
            prompts_of_labels(features, arguments.prompts),
            arguments.detector,
            arguments.segmenter,
            device,
            box_threshold=arguments.box_threshold,
        )
    from ..masks.tokencut import TokenCut

    settings = {name: getattr(arguments, name) for name in ("batch_size", "min_pixels", "min_side")}
    settings |= {"refine": not arguments.coarse, "released": arguments.released}
    registered = MODELS.get(arguments.model)
    if registered is not None and registered.load_backbone is not None:
        return TokenCut(registered.load_backbone().to(device), **settings)
    return TokenCut.from_pretrained(arguments.model, device, **settings)
