"""Text description of a dataset: rows, classes, masks and first problems."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from .classes import class_names_of, wnids
from .find_images import find_images, find_splits
from .image_sets import open_source
from .mask_files import mask_problem, mask_to_tensor
from .options import DescribeOptions
from .schema import decode, label_problem, undecoded_rows
from .write_dataset import parts_of


NUM_SHOWN = 10  # problems and names
# Of mask coverage, in per cent.
BINS = ("empty", *(f"{low:>3}–{low + 10:<3}" for low in range(0, 100, 10)), "full")


def describe(options: DescribeOptions) -> str:
    """Describe a dataset, or an unprepared set of the paper, as [`describe_rows`] does, with the class names of your own
    images."""
    if options.set is not None:
        source = open_source(options.set, [options.source], options.of_the_set)
        return describe_rows(source.rows(source.shards), len(wnids()))
    splits = find_splits(options.source)
    split = options.split or ("train" if "train" in splits else next(iter(splits)))
    rows = find_images(options.source, split).rows
    num_labels = getattr(rows.features.get("label"), "num_classes", None)
    lines = [f"split: {split}", describe_rows(undecoded_rows(rows), num_labels)]
    if names := class_names_of(rows.features):
        lines.append(f"class names: {', '.join(names[:NUM_SHOWN])}{', …' if len(names) > NUM_SHOWN else ''}")
    return "\n".join(lines)


def describe_rows(rows: Iterable[dict], num_labels: int | None = None) -> str:
    """Summarise all rows of a [`Source`] as text: rows, columns, image sizes, rows per class, histogram of mask coverage, first
    problems. `num_labels` is the number of classes, if known."""
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
    """Number of classes and of their rows."""
    several = sum(isinstance(label, list) and len(label) > 1 for label in labels)
    rows = Counter(chain.from_iterable(label if isinstance(label, list) else [label] for label in labels))
    integers, counts = [label for label in rows if isinstance(label, int)], [*rows.values()]
    parts = [f"classes: {len(rows)}", *([f"labels {min(integers)}–{max(integers)}"] if integers else [])]
    parts.append(f"{min(counts)}–{max(counts)} rows each (median {np.median(counts):.0f})")
    return ", ".join(parts) + (f"; {several:,} rows accept several labels" if several else "")
