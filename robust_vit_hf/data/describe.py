"""Text description of a dataset: rows, classes, masks and first problems."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from .find_images import find_images, find_splits, split_names
from .image_sets import open_source
from .imagenet_classes import wnids
from .label_mapping import class_names_of
from .layouts.image_folder import ImageFolder
from .mask_checks import mask_problem, mask_to_tensor
from .options import DescribeOptions
from .row_checks import label_problem
from .schema import decode, undecoded_rows


NUM_PROBLEMS = NUM_NAMES = 10
# Of mask coverage, in per cent.
BINS = ("empty", *(f"{low:>3}–{low + 10:<3}" for low in range(0, 100, 10)), "full")


def describe(options: DescribeOptions) -> str:
    """Describe a dataset, or an unprepared set of the paper, as [`describe_rows`] does, with the class names of your own
    folders, splits that number them differently, and images that are left out.

    Raises:
        OSError, ValueError: as [`load_masked_dataset`], or as [`open_source`].
    """
    if options.set is not None:
        source = open_source(options.set, [options.source], options.of_the_set)
        return describe_rows(source.rows(source.shards), len(wnids()))
    splits = find_splits(options.source)
    split = options.split or ("train" if "train" in splits else next(iter(splits)))
    rows = find_images(options.source, split).rows
    num_labels = getattr(rows.features.get("label"), "num_classes", None)
    lines = [f"split: {split}", describe_rows(undecoded_rows(rows), num_labels)]
    if names := class_names_of(rows.features):
        lines.append(f"class names: {_some(names)}")
        for other, load in splits.items():
            with suppress(OSError, ValueError):  # of a split that is not asked for
                found = names if other in split_names(split) else class_names_of(load(True).features)
                if found not in (None, names):
                    lines.append(
                        f"`{other}` numbers its classes differently: {_some(found)}; labels are mapped by name"
                    )
    if images := ImageFolder.find(Path(options.source)):
        told = [left_out for name in split_names(split) if (left_out := images.read(name)[1])]
        lines += [f"left out: {left_out}" for left_out in told]
    return "\n".join(lines)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:NUM_NAMES]) + (", …" if len(names) > NUM_NAMES else "")


def describe_rows(rows: Iterable[dict], num_labels: int | None = None) -> str:
    """Read all rows and summarise them.

    Args:
        rows: rows of a [`Source`].
        num_labels: number of classes, if known.

    Returns:
        Markdown-like text: rows, columns, image sizes, rows per class, histogram of mask coverage, first problems.
    """
    columns, problems, labels, sizes, coverage = {}, [], Counter(), [], Counter()
    count = num_problems = several = 0
    rows = iter(rows)
    with ThreadPoolExecutor() as pool, tqdm(desc="reading", unit="row", leave=False) as progress:
        while window := list(islice(rows, 64)):
            for row, image, mask in pool.map(decode, window):
                count += 1
                problem = row.get("problem")
                if problem is None:
                    columns |= dict.fromkeys(row)
                    accepted = row["label"] if isinstance(row.get("label"), list) else [row.get("label", 0)]
                    if "label" in row:
                        labels.update(accepted)
                        several += len(accepted) > 1
                    if image is None or ("mask" in row and mask is None):
                        problem = f"{'image' if image is None else 'mask'} is missing"
                    else:
                        sizes.append(image.size)
                        found = [label_problem(label, num_labels) for label in accepted]
                        of_mask = None if mask is None else mask_problem(image, mask)
                        problem = next(filter(None, [of_mask, *found]), None)
                    problem = problem and f"{row['file_name']}: {problem}"
                if problem is not None:
                    num_problems += 1
                    problems += [problem] if len(problems) < NUM_PROBLEMS else []
                elif mask is not None:
                    share = 100 * (mask_to_tensor(mask).numpy() > 0).mean()
                    coverage[BINS[0 if share == 0 else int(share // 10) + 1]] += 1
            progress.update(len(window))

    lines = [f"rows: {count:,}, {num_problems:,} of them unusable", f"columns: {', '.join(columns)}"]
    if sizes:
        widths, heights = np.array(sizes).T
        lines.append(
            f"images: {widths.min()}–{widths.max()} px wide (median {np.median(widths):.0f}), "
            f"{heights.min()}–{heights.max()} px high (median {np.median(heights):.0f})"
        )
    if labels:
        each = np.array(list(labels.values()))
        integers = [label for label in labels if isinstance(label, int)]
        lines.append(
            f"classes: {len(labels)}"
            + (f", labels {min(integers)}–{max(integers)}" if integers else "")
            + f", {each.min()}–{each.max()} rows each (median {np.median(each):.0f})"
            + (f"; {several:,} rows accept several labels" if several else "")
        )
    if coverage:
        lines.append("mask coverage (foreground in per cent of the image):")
        for name in BINS:
            bar = "█" * round(40 * coverage[name] / max(coverage.values()))
            lines.append(f"  {name:>8} {coverage[name]:>8,} {bar}")
    if problems:
        lines += [f"first problems ({len(problems)} of {num_problems:,}):", *(f"  {problem}" for problem in problems)]
    return "\n".join(lines)
