"""Prepare the sets of the paper, and look into any data set.

python -m robust_vit_hf.data prepare imagenet-a imagenet-a.tar --output sets/imagenet-a
python -m robust_vit_hf.data describe sets/imagenet-a
python -m robust_vit_hf.data describe objectnet-1.0 --set objectnet
"""

import argparse
import sys
from pathlib import Path

from .describe import describe, split_of
from .imagenet_classes import wnids
from .masked import load_masked_dataset, undecoded_rows
from .prepare import prepare
from .sets import V2_VARIANTS, image_sets, open_source


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m robust_vit_hf.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("prepare", help="write a set of the paper as parquet, every image checked")
    command.add_argument("set", choices=list(image_sets()))
    command.add_argument(
        "sources",
        nargs="*",
        help="folder of the official layout, archives, or Hub id; by default the set's place on the Hub",
    )
    command.add_argument("--output", type=Path, required=True, help="folder to write; an unfinished one goes on")
    command.add_argument("--skip_bad", action="store_true", help="leave out rows that cannot be used, and list them")
    command.add_argument("--rows_per_shard", type=int, default=1000)
    _add_options(command)

    command = commands.add_parser("describe", help="rows, classes, mask coverage and the first problems of a data set")
    command.add_argument("source", help="folder, file or Hub id")
    command.add_argument("--set", choices=list(image_sets()), help="read it as this set of the paper")
    command.add_argument("--split", default=None, help="split to read; `train` by default, if there is one")
    _add_options(command, split=False)
    return parser


def _add_options(command: argparse.ArgumentParser, split: bool = True) -> None:
    options = command.add_argument_group("options of some sets")
    options.add_argument("--labels", choices=["original", "real"], help="imagenet-1k: `real` for the lists of ReaL")
    options.add_argument("--variant", choices=V2_VARIANTS, help="imagenet-v2: the paper's is matched-frequency")
    options.add_argument("--mappings", help="objectnet: folder of the mapping files")
    options.add_argument("--cropped", action="store_const", const=True, help="objectnet: cut the red border of 2 px")
    options.add_argument("--imagenet", help="imagenet-s919, paper-split: your ImageNet-1k, for the images")
    options.add_argument("--class_seed", type=int, help="paper-split: shuffle the classes first (Tables 8 and 9)")
    options.add_argument("--num_classes", type=int, help="paper-split: training classes, 500 by default (Fig. 7b)")
    options.add_argument("--samples_per_class", type=int, help="paper-split: images of each, 3 by default (Fig. 7a)")
    if split:
        options.add_argument("--split", choices=["train", "validation"], help="paper-split: one part alone")


def main(argv: list[str]) -> None:
    arguments = vars(make_parser().parse_args(argv))
    names = ("labels", "variant", "mappings", "cropped", "imagenet", "class_seed", "num_classes", "samples_per_class")
    options = {name: arguments[name] for name in names if arguments[name] is not None}
    if arguments["command"] == "prepare":
        if arguments["split"] is not None:
            options["split"] = arguments["split"]
        counts = prepare(
            arguments["set"],
            arguments["sources"],
            arguments["output"],
            skip_bad=arguments["skip_bad"],
            rows_per_shard=arguments["rows_per_shard"],
            **options,
        )
        for split, (kept, rejected) in counts.items():
            print(f"{split}: {kept:,} rows, {rejected:,} rejected")
        print(f"{arguments['output']}: parquet, README.md and contact sheets")
    elif arguments["set"] is None:
        split = arguments["split"] or split_of(arguments["source"])
        dataset = load_masked_dataset(arguments["source"], split)
        num_labels = getattr(dataset.features.get("label"), "num_classes", None)
        print(f"split: {split}\n{describe(undecoded_rows(dataset), num_labels)}")
    else:
        if arguments["split"] is not None:
            options["split"] = arguments["split"]
        source = open_source(arguments["set"], [arguments["source"]], options)
        print(describe(source.rows(source.shards), len(wnids())))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
