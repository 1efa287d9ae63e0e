"""Options of `robust-vit data`."""

import argparse

from ..data.layouts.imagenet_v2 import V2_VARIANTS
from ..data.registry import image_sets
from .parser import Parser, add_writer_options, count, count_from_zero


DESCRIPTION = """Prepare the sets of the paper, and describe any dataset.

  robust-vit data prepare imagenet-a imagenet-a.tar --output_dir sets/imagenet-a
  robust-vit data describe sets/imagenet-a
  robust-vit data describe objectnet-1.0 --set objectnet"""


def run(argv: list[str]) -> None:
    arguments = parse_arguments(argv)
    names = {name for image_set in image_sets().values() for name in image_set.options}
    options = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    if arguments.command == "describe":
        print(_describe(arguments, options))
        return

    from ..data.preparation import prepare

    counts = prepare(
        arguments.set,
        arguments.sources,
        arguments.output_dir,
        skip_bad=arguments.skip_bad,
        rows_per_shard=arguments.rows_per_shard,
        **options,
    )
    for split, (kept, rejected) in counts.items():
        print(f"{split}: {kept:,} rows, {rejected:,} rejected")
    print(f"{arguments.output_dir}: parquet, README.md and contact sheets")


def _describe(arguments: argparse.Namespace, options: dict) -> str:
    from ..class_names.imagenet import wnids
    from ..data.description import describe, split_of
    from ..data.masked_dataset import load_masked_dataset, undecoded_rows
    from ..data.registry import open_source

    if arguments.set is not None:
        source = open_source(arguments.set, [arguments.source], options)
        return describe(source.rows(source.shards), len(wnids()))
    split = arguments.split or split_of(arguments.source)
    dataset = load_masked_dataset(arguments.source, split)
    num_labels = getattr(dataset.features.get("label"), "num_classes", None)
    return f"split: {split}\n{describe(undecoded_rows(dataset), num_labels)}"


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="robust-vit data", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("prepare", help="write a set of the paper as parquet, every image checked")
    command.add_argument("set", choices=list(image_sets()))
    command.add_argument(
        "sources",
        nargs="*",
        help="folder of the official layout, archives, or Hub id; by default the set's place on the Hub",
    )
    add_writer_options(command)
    _add_set_options(command)
    command.add_argument("--split", choices=["train", "validation"], help="paper-split: one part alone")

    command = commands.add_parser("describe", help="rows, classes, mask coverage and the first problems of a dataset")
    command.add_argument("source", help="folder, file or Hub id")
    command.add_argument("--set", choices=list(image_sets()), help="read it as this set of the paper")
    command.add_argument("--split", default=None, help="split to read; `train` by default, if there is one")
    _add_set_options(command)
    return parser.parse_args(argv)


def _add_set_options(command: argparse.ArgumentParser) -> None:
    options = command.add_argument_group("options of some sets")
    options.add_argument("--labels", choices=["original", "real"], help="imagenet-1k: `real` for the lists of ReaL")
    options.add_argument("--variant", choices=V2_VARIANTS, help="imagenet-v2: the paper's is matched-frequency")
    options.add_argument("--mappings", help="objectnet: folder of the mapping files")
    options.add_argument("--cropped", action="store_const", const=True, help="objectnet: cut the red border of 2 px")
    options.add_argument("--imagenet", help="imagenet-s919, paper-split: your ImageNet-1k, for the images")
    options.add_argument(
        "--class_seed", type=count_from_zero, help="paper-split: shuffle the classes first (Tables 8 and 9)"
    )
    options.add_argument("--num_classes", type=count, help="paper-split: training classes, 500 by default (Fig. 7b)")
    options.add_argument("--samples_per_class", type=count, help="paper-split: images of each, 3 by default (Fig. 7a)")
