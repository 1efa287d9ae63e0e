"""What a loader sees: rows, classes, masks and the first problems of a data set, as a text."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
from tqdm.auto import tqdm

from .masked_dataset import problem_of
from .preparation import decode
from .transforms import mask_to_tensor


NUM_PROBLEMS = 10
BINS = ((0, 0), *((low, low + 10) for low in range(0, 100, 10)), (100, 100))  # of mask coverage, in per cent


def split_of(path: str) -> str:
    """The split to look into where none is named: `train`, or the first if there is no such."""
    if (Path(path) / "state.json").is_file() or Path(path).suffix == ".parquet":
        return "train"
    if (Path(path) / "dataset_dict.json").is_file():
        names = list(datasets.load_from_disk(path))
    else:
        try:
            names = datasets.get_dataset_split_names(path)
        except (ConnectionError, FileNotFoundError):
            return "train"  # loading it says what is wrong
    return "train" if "train" in names else names[0]


def describe(rows: Iterable[dict], num_labels: int | None = None) -> str:
    """Read all rows and sum up what they hold.

    Args:
        num_labels: number of classes, where it is known.
        rows: as a [`Source`] gives them: images as dicts with `bytes` and `path`, and `file_name`.

    Returns:
        Markdown-like text: rows, columns, image sizes, rows of a class, histogram of mask coverage, first problems.
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
                    if image is None:
                        problem = "image is missing"
                    else:
                        sizes.append(image.size)
                        problem = next(
                            filter(None, (problem_of(image, mask, label, num_labels) for label in accepted)), None
                        )
                    if mask is not None and problem is None:
                        coverage[_bin(mask_to_tensor(mask).numpy())] += 1
                    problem = problem and f"{row['file_name']}: {problem}"
                if problem is not None:
                    num_problems += 1
                    problems += [problem] if len(problems) < NUM_PROBLEMS else []
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
            f"classes: {len(labels)}" + (f", labels {min(integers)}–{max(integers)}" if integers else "") + f", "
            f"{each.min()}–{each.max()} rows each (median {np.median(each):.0f})"
            + (f"; {several:,} rows accept several labels" if several else "")
        )
    if coverage:
        lines.append("mask coverage (foreground in per cent of the image):")
        for low, high in BINS:
            share = coverage[low, high]
            name = {0: "empty", 100: "full"}[low] if low == high else f"{low:>3}–{high:<3}"
            lines.append(f"  {name:>8} {share:>8,} {'█' * round(40 * share / max(coverage.values()))}")
    if problems:
        lines += [f"first problems ({len(problems)} of {num_problems:,}):", *(f"  {problem}" for problem in problems)]
    return "\n".join(lines)


def _bin(mask: np.ndarray) -> tuple[int, int]:
    share = 100 * (mask > 0).mean()
    if share in (0, 100):
        return int(share), int(share)
    return int(share // 10) * 10, int(share // 10) * 10 + 10
