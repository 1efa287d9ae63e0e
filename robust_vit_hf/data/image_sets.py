"""Loading of the known sets, and `robust-vit data prepare` and `robust-vit data describe`."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from pkgutil import resolve_name

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import snapshot_download
from PIL import Image
from tqdm.auto import tqdm

from ..utils.cache import Cache
from ..utils.privacy import is_hub_id
from .classes import class_names_of, wnids
from .find_images import find_images, find_splits
from .known_sets import KNOWN_SETS, V2_VARIANTS, KnownSet
from .layouts.packed import has_parquet, is_archive, numbered_tars, open_table, unpacked
from .layouts.source import Source, features_of
from .mask_checks import mask_problem, mask_to_tensor
from .options import DescribeOptions, PrepareOptions
from .schema import NUM_SHOWN, decode, label_problem, undecoded_rows
from .write_dataset import SplitWriter, parts_of, write_rows


# Bins of the mask coverage in per cent.
BINS = ("empty", *(f"{low:>3}–{low + 10:<3}" for low in range(0, 100, 10)), "full")


def load_image_set(
    name: str, place: str | Path | None = None, *, streaming: bool = False, **options
) -> datasets.Dataset | datasets.IterableDataset:
    """Load a known set as rows with the columns of [`features_of`].

    Args:
        name: one of `KNOWN_SETS`.
        place: folder of the official layout, archive, folder of tars, prepared folder, or Hub id; by default, the set's Hub dataset.
        streaming: whether to read rows on the fly. Otherwise, they are first written to the cache of `datasets`.
        options: options of the set, such as `labels="real"`, see `robust-vit data prepare`.

    Raises:
        KeyError: unknown set.
        ValueError: unknown option, or another layout; while rows are read: a row cannot be used.
        FileNotFoundError: the source does not exist, or is on the Hub and not accessible.
    """
    source = open_source(name, [] if place is None else [place], options)
    if source.change is None:
        return source.rows.to_iterable_dataset(source.num_shards) if streaming else source.rows
    rows, shards = partial(_usable_rows, source=source), {"shards": [*range(source.num_shards)]}
    if streaming:
        return datasets.IterableDataset.from_generator(rows, source.features, gen_kwargs=shards)
    state = repr([version("robust-vit-hf"), name, options, source.identity])
    fingerprint = hashlib.sha256(state.encode()).hexdigest()[:16]
    try:
        loaded = datasets.Dataset.from_generator(rows, source.features, gen_kwargs=shards, fingerprint=fingerprint)
    except DatasetGenerationError as error:
        raise error.__cause__ from None
    if isinstance(source.state, str):  # the commit of a set on the Hub
        place = place or next(iter(KNOWN_SETS[name].hub))
        loaded.info.homepage = f"https://huggingface.co/datasets/{place}/tree/{source.state}"
    return loaded


def _usable_rows(shards: list, source: Source) -> Iterator[dict]:
    for row in source.read(shards):
        if "problem" in row:
            raise ValueError(row["problem"])
        yield row


def prepare(options: PrepareOptions) -> str:
    """Write one split of a set, or all, as parquet with a card and contact sheets, or resume an interrupted run."""
    name, of_the_set = options.set, options.of_the_set
    known = find_set(name, of_the_set)
    several = len(known.splits) > 1 and options.split is None
    splits = [of_the_set | {"split": split} for split in known.splits] if several else [of_the_set]
    # Splits are loaded together, and must have the same options, except for the folders of their images.
    public = {
        key: Path(value).name if isinstance(value, str) and Path(value).exists() else value
        for key, value in of_the_set.items()
        if key not in ("split", "imagenet")
    }
    inputs, lines = {"command": "data prepare", "set": name, "options": public}, []
    with Cache(options.output_dir / "cache").lock():
        for chosen in splits:
            source = open_source(name, options.sources, chosen)
            writer = SplitWriter(
                options.output_dir,
                inputs,
                chosen.get("split", known.splits[0]),
                source.identity,
                source.features,
                title=name,
                text=f"Prepared from the set of {known.origin}, whose terms also apply to these images.",
                rows_per_file=options.rows_per_shard,
                facts={"license": known.license, "source_datasets": ["original"]},
            )
            kept, rejected = write_rows(writer, iter(source), options.skip_bad)
            lines.append(f"{writer.split}: {kept:,} kept, {rejected:,} rejected")
    return "\n".join([*lines, f"{options.output_dir}: parquet, README.md and contact sheets"])


def open_source(name: str, sources: Sequence[str | Path], options: dict) -> Source:
    """Return the undecoded rows and the columns of a set. Arguments and errors are those of [`load_image_set`]."""
    known = find_set(name, options)
    path = _find_source(name, sources, options)
    if path is None or numbered_tars(path) or has_parquet(path):
        return open_table(name, str(path or next(iter(sources or known.hub))), options)
    layout = resolve_name(f"{__package__}.layouts.{known.layout}")
    of_rows = features_of(name, options | {"labels": "original"})
    return layout(path, **known.part, **options).with_features(features_of(name, options), of_rows)


def find_set(name: str, options: dict) -> KnownSet:
    known = KNOWN_SETS[name]
    if not options.keys() <= {*known.options} or options.get("split", known.splits[0]) not in known.splits:
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        takes = f"takes {', '.join(known.options) or 'no option'}, and has the splits {', '.join(known.splits)}"
        raise ValueError(f"`{name}` {takes}; got {given}.")
    return known


def _find_source(name: str, sources: Sequence[str | Path], options: dict) -> Path | None:
    """Path of a set, unpacked if it is archived; `None` for a table on the Hub."""
    known, paths = KNOWN_SETS[name], [Path(source) for source in sources]
    if not (sources or known.hub or known.hub_files):
        raise FileNotFoundError(f"`{name}` is not on the Hub: give its folder or archive from {known.origin}.")
    place = str(next(iter([*sources, *known.hub_files, *known.hub])))
    if place in known.hub_files and not (sources and Path(place).exists()):
        patterns = [file.format(**{"variant": V2_VARIANTS[0]} | options) for file in known.hub_files[place]]
        folder = Path(snapshot_download(place, repo_type="dataset", allow_patterns=patterns))
        paths = [folder / file for file in patterns if is_archive(folder / file)] or [folder]
    if paths and all(map(is_archive, paths)):
        return unpacked(paths)
    if len(paths) > 1:
        raise ValueError(f"`{name}`: give one folder, or only archives; got {', '.join(map(str, paths))}.")
    return None if not paths or is_hub_id(str(paths[0])) else paths[0].absolute()


def describe(options: DescribeOptions) -> str:
    if options.set is not None:
        source = open_source(options.set, [options.source], options.of_the_set)
        return describe_rows(source, len(wnids()))
    splits = find_splits(options.source)
    split = options.split or ("train" if "train" in splits else next(iter(splits)))
    rows = find_images(options.source, split).rows
    num_labels = getattr(rows.features.get("label"), "num_classes", None)
    lines = [f"split: {split}", describe_rows(undecoded_rows(rows), num_labels)]
    if names := class_names_of(rows.features):
        lines.append(f"class names: {', '.join(names[:NUM_SHOWN])}{', …' if len(names) > NUM_SHOWN else ''}")
    return "\n".join(lines)


def describe_rows(rows: Iterable[dict], num_labels: int | None = None) -> str:
    """Summarise all rows of a [`Source`] as text, with a histogram of the mask coverage and the first problems."""
    columns, problems, labels, sizes, coverage, count = {}, [], [], [], Counter(), 0
    with ThreadPoolExecutor() as pool:
        parts = (pool.map(decode, part) for part in parts_of(iter(rows)))
        for row, image, mask in tqdm(chain.from_iterable(parts), desc="reading", unit="row", leave=False):
            count += 1
            if "problem" not in row:
                columns |= dict.fromkeys(row)
                labels += [row["label"]] if "label" in row else []
                sizes += [image.size] if image is not None else []
            if problem := row.get("problem") or _problem_of(row, image, mask, num_labels):
                problems.append(problem)
            elif mask is not None:
                share = 100 * (mask_to_tensor(mask).numpy() > 0).mean()
                coverage[BINS[0 if share == 0 else int(share // 10) + 1]] += 1
    lines = [f"rows: {count:,}, {len(problems):,} of them unusable", f"columns: {', '.join(columns)}"]
    if sizes:
        sides = zip(zip(*sizes, strict=True), ("wide", "high"), strict=True)
        extents = (f"{min(px)}–{max(px)} px {side} (median {np.median(px):.0f})" for px, side in sides)
        lines.append(f"images: {', '.join(extents)}")
    lines += [_classes(labels)] if labels else []
    if coverage:
        lines.append("mask coverage (foreground in per cent of the image):")
        bars = {name: "█" * round(40 * coverage[name] / max(coverage.values())) for name in BINS}
        lines += [f"  {name:>8} {coverage[name]:>8,} {bar}" for name, bar in bars.items()]
    if shown := problems[:NUM_SHOWN]:
        lines += [f"first problems ({len(shown)} of {len(problems):,}):", *(f"  {problem}" for problem in shown)]
    return "\n".join(lines)


def _problem_of(row: dict, image: Image.Image | None, mask: Image.Image | None, num_labels: int | None) -> str | None:
    accepted = row["label"] if isinstance(row.get("label"), list) else [row.get("label", 0)]
    problems = [label_problem(label, num_labels) for label in accepted]
    if image is None:
        problems = ["image is missing"]
    elif "mask" in row:
        problems = [mask_problem(image, mask), *problems]
    problem = next(filter(None, problems), None)
    return problem and f"{row['file_name']}: {problem}"


def _classes(labels: list) -> str:
    several = sum(isinstance(label, list) and len(label) > 1 for label in labels)
    rows = Counter(chain.from_iterable(label if isinstance(label, list) else [label] for label in labels))
    integers, counts = [label for label in rows if isinstance(label, int)], [*rows.values()]
    parts = [f"classes: {len(rows)}", *([f"labels {min(integers)}–{max(integers)}"] if integers else [])]
    parts.append(f"rows of a class {min(counts)}–{max(counts)} (median {np.median(counts):.0f})")
    return ", ".join(parts) + (f"; rows that accept several labels: {several:,}" if several else "")
