"""`robust-vit data prepare`: conversion of the known sets from archives to parquet, with a check of every image."""

from pathlib import Path

from ..utils.stage import Stage
from .image_sets import find_set, open_source
from .options import PrepareOptions
from .write_dataset import SplitWriter, write_rows


def prepare(options: PrepareOptions) -> str:
    """Write a set as parquet, with a card and contact sheets; all of its splits, if it has several. Call it again to
    resume an interrupted run. Returns what was written."""
    name, of_the_set = options.set, options.of_the_set
    known = find_set(name, of_the_set)
    several = len(known.splits) > 1 and options.split is None
    splits = [of_the_set | {"split": split} for split in known.splits] if several else [of_the_set]
    # Splits are loaded together, and must have the same options; their images may come from several folders.
    public = {
        key: Path(value).name if isinstance(value, str) and Path(value).exists() else value
        for key, value in of_the_set.items()
        if key not in ("split", "imagenet")
    }
    stage, lines = Stage(options.output_dir, {"command": "data prepare", "set": name, "options": public}), []
    with stage.lock():
        for chosen in splits:
            source = open_source(name, options.sources, chosen)
            writer = SplitWriter(
                stage,
                chosen.get("split", known.splits[0]),
                source.features,
                title=name,
                text=f"Prepared from the set of {known.origin}, whose terms hold for these images too.",
                rows_per_file=options.rows_per_shard,
            )
            kept, rejected = write_rows(writer, source.rows(source.shards), options.skip_bad)
            lines.append(f"{writer.split}: {kept:,} rows, {rejected:,} rejected")
    return "\n".join([*lines, f"{options.output_dir}: parquet, README.md and contact sheets"])
