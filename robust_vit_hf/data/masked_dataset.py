"""Images with foreground masks: one schema for all sources, and checks of all rows.

Schema: `image` and `mask` (`datasets.Image`, same size, mask with one channel: 0 background, 1 or 255 foreground) and
`label` (integer or `ClassLabel`, an index of the model's classes), optional if no target is the label.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets.exceptions import DatasetGenerationError
from PIL import Image
from pyarrow import ArrowInvalid
from tqdm.auto import tqdm
from transformers.utils import logging

from ..utils.cache import cache_of, check_no_pattern
from ..utils.files import RESULTS_FILE
from ..utils.images import to_rgb
from .benchmarks import benchmarks
from .layouts.hub_tables import has_parquet
from .layouts.image_folder import ImageFolder
from .layouts.parquet_files import ParquetFiles, join
from .mask_checks import mask_problem, mask_to_tensor
from .parquet_writer import CONTACT_SHEET, read_settings


logger = logging.get_logger(__name__)

IMAGE_FOLDER_REMEDY = (
    "In an image folder, a `metadata.jsonl` gives the masks: one line a row with `image_file_name`, `mask_file_name` "
    "and `label`."
)
NUM_SHOWN = 10  # rows that an error names


class UnknownSplit(ValueError):
    """A dataset does not have a split."""


def load_masked_dataset(
    path: str, split: str, *, streaming: bool = False, **options
) -> datasets.Dataset | datasets.IterableDataset:
    """Load one split of a dataset with masks.

    Args:
        path: name of a benchmark (`emoji-shift`), folder written by `save_to_disk`, parquet file, folder of parquet
            files, folder of images (in class folders, or with a `metadata.jsonl` of `image_file_name`,
            `mask_file_name` and `label`), or Hub id.
        split: name of the split, or a slice such as `train[:80%]`. A single parquet file or dataset saved to disk only
            has the split `train`. Slices of files cannot be streamed.
        streaming: whether to read rows on the fly, from files or the Hub, without a copy.
        options: options of a benchmark: `samples_per_class`, `class_seed`, `seed`.

    Class names are those of the split: files of a split that number their classes in another order than the first are
    mapped by name. A warning names images of a folder that are left out.

    Raises:
        FileNotFoundError: the file, folder or Hub dataset does not exist.
        UnknownSplit: the split does not exist (names the existing ones).
        ValueError: another dataset than a benchmark has options, a path of tables would be read as a pattern,
            `metadata.jsonl` is not valid or names files outside its folder, no image of a folder can be used, only
            some files name their classes, or the copy in the cache of `datasets` is damaged; or as [`check_no_images`].
    """
    folder, splits = Path(path), None
    if options and path not in benchmarks():
        raise ValueError(f"Only benchmarks take `{next(iter(options))}`, and `{path}` is not one: leave it out.")
    if path in benchmarks():
        check_no_images(path)
        splits = benchmarks()[path].load_finetuning_splits(**options)
    elif _is_saved(folder):
        loaded = datasets.load_from_disk(path)
        splits = {"train": loaded} if isinstance(loaded, datasets.Dataset) else loaded
    if splits is not None:
        rows = _slice_of({name: partial(splits.get, name) for name in splits}, split, path)
        return rows.to_iterable_dataset() if streaming else rows
    if streaming and ("[" in split or "+" in split):
        raise ValueError(
            f"`{split}` is a slice, and files are streamed by whole splits: name one, or load the slice in memory."
        )
    if images := ImageFolder.find(folder):
        loaders = {name: partial(_load_images, images, name, streaming) for name in images.folders}
        return _slice_of(loaders, split, path)
    check_no_pattern(folder)
    if folder.is_file() and folder.suffix != ".parquet":
        raise ValueError(f"`{path}` is a file, expected a folder of images or parquet files, or one parquet file.")
    if folder.suffix == ".parquet":
        return _load("parquet", path, split, streaming, data_files={"train": path})
    if not folder.exists() and "/" not in path:
        raise FileNotFoundError(f"There is no file or folder `{path}`, and a Hub id has the form `owner/name`.")
    cache = None
    if folder.is_dir():
        # `datasets` 5.2 keys its cache for a folder with a card only by name and card: another folder of this name, or
        # changed files, would return the rows loaded first.
        read = (file for file in sorted(folder.rglob("*")) if not file.name.startswith((".", CONTACT_SHEET)))
        cache = cache_of(file for file in read if file.is_file())
    try:
        files = ParquetFiles.find(path, cache)
        if files is None:
            return _load(path, path, split, streaming, cache_dir=cache)
        loaders = {name: partial(_load_parquet, path, files, name, streaming, cache) for name in files.splits}
        return _slice_of(loaders, split, path)
    except (ConnectionError, FileNotFoundError) as error:
        if folder.exists():
            raise
        raise FileNotFoundError(
            f"There is no file or folder `{path}`, and no dataset of that id could be loaded from the Hub: {error}"
        ) from error


def check_no_images(benchmark: str) -> None:
    """Refuse the name of a benchmark where a folder of images of that name is, which may be meant.

    Raises:
        ValueError: it is ambiguous.
    """
    folder = Path(benchmark)
    if any((folder / name).is_file() for name in ("config.json", RESULTS_FILE, "report.md", "captions.md")):
        return  # a model, results, a report or figures, with pictures
    if _is_saved(folder) or has_parquet(folder) or ImageFolder.find(folder):
        raise ValueError(
            f"`{benchmark}` is a benchmark, and a folder of images here: give `./{benchmark}` for the folder. For the benchmark, run "
            "the command in another folder, or rename that one."
        )


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _load_images(images: ImageFolder, split: str, streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    rows = images.read(split)
    if rows.left_out:
        logger.warning(f"`{images.root}`, split `{split}`: left out {rows.left_out}.")
    return rows.stream() if streaming else rows.table()


def _load_parquet(
    path: str, files: ParquetFiles, split: str, streaming: bool, cache: Path | None
) -> datasets.Dataset | datasets.IterableDataset:
    """Load a split with the class names of its own files."""
    groups = files.groups(split)
    if not Path(path).exists() and all(names == files.names_of_all() for names, _ in groups):
        return _load(path, path, split, streaming)  # whose copy in the cache is found without the Hub too
    parts = []
    for names, group in groups:
        features = files.features_with(names)
        parts.append(
            _load("parquet", path, "train", streaming, data_files={"train": group}, cache_dir=cache, features=features)
        )
    return join(parts, path)


def _load(name: str, path: str, split: str, streaming: bool, **options) -> datasets.Dataset | datasets.IterableDataset:
    """`datasets.load_dataset(name, …)` with clear errors about the dataset in `path`."""
    damage = None
    try:
        dataset = datasets.load_dataset(name, split=split, streaming=streaming, **options)
        if streaming:
            return dataset
        # A copy truncated between two batches loads without an error.
        lengths = {name: info.num_examples for name, info in dataset.info.splits.items()}
        num_rows = sum(part.to - part.from_ for part in datasets.ReadInstruction.from_spec(split).to_absolute(lengths))
        if len(dataset) == num_rows:
            return dataset
        damage = f"{len(dataset):,} of {num_rows:,} rows are there"
    except DatasetGenerationError as error:
        raise ValueError(f"`{path}` cannot be read: {error.__cause__ or error}") from error
    except (ConnectionError, FileNotFoundError):
        raise
    except (ArrowInvalid, OSError) as error:
        if "JSON" in str(error):
            raise ValueError(
                f"A `metadata.jsonl` of `{path}` is not valid: {error}. Expected a JSON object on each line."
            ) from error
        damage = str(error)
    except ValueError as error:
        if "Unknown split" in str(error):
            raise UnknownSplit(f"{error} (`{path}`)") from error
        raise
    raise ValueError(
        f"The copy of `{path}` in the cache of `datasets` is damaged ({damage}): delete `{datasets.config.HF_DATASETS_CACHE}`, "
        "which is made again."
    )


def split_names(spec: str) -> list[str]:
    """Names of the splits in `train`, `train[:80%]`, or `train+validation`, in order."""
    return list(dict.fromkeys(part.partition("[")[0].strip() for part in spec.split("+")))


def _slice_of(loaders: Mapping[str, Callable[[], Any]], spec: str, source: str) -> Any:
    """Load a split, or a slice such as `train[:80%]`, by functions that load whole splits. Others are not loaded."""
    if unknown := [name for name in split_names(spec) if name not in loaders]:
        raise UnknownSplit(f'Unknown split "{unknown[0]}". Should be one of {[*loaders]}: `{source}` has no others.')
    splits = {name: loaders[name]() for name in split_names(spec)}
    if spec in splits:
        return splits[spec]
    lengths = {name: len(splits[name]) if name in splits else 0 for name in loaders}
    parts = datasets.ReadInstruction.from_spec(spec).to_absolute(lengths)
    return join([splits[p.splitname].select(range(p.from_, p.to)) for p in parts], source)


def mask_origin(path: str) -> str:
    """Recorded origin of the masks of a dataset or benchmark, for model cards."""
    if path in benchmarks():
        return benchmarks()[path].masks
    methods = {made_by.get("method", made_by.get("set")) for made_by in read_settings(Path(path)).values()} - {None}
    return f"made by {', '.join(sorted(methods))}" if methods else "those that came with the dataset"


def undecoded(dataset: datasets.Dataset) -> datasets.Dataset:
    """The dataset with images as dicts with `bytes` and `path`."""
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


def undecoded_rows(dataset: datasets.Dataset) -> Iterator[dict]:
    """Rows with undecoded images and `file_name`: from the row or its image, or else the row's number.

    Raises:
        ValueError: there is no column of images.
    """
    if not isinstance(dataset.features.get("image"), datasets.Image):
        raise ValueError(
            f"The dataset has the columns {dataset.features}, expected an `image` of type `datasets.Image()`. "
            f"{IMAGE_FOLDER_REMEDY}"
        )
    for index, row in enumerate(undecoded(dataset)):
        path = (row.get("image") or {}).get("path")
        yield {"file_name": Path(path).name if path else f"row {index}"} | row


def check_columns(
    dataset: datasets.Dataset | datasets.IterableDataset, name: str, needs_labels: bool, needs_masks: bool = True
) -> None:
    """Check the schema of a dataset; `name` is its name in errors.

    Raises:
        ValueError: a column is missing or has another type.
    """
    if dataset.features is None:
        raise ValueError(
            f"The {name} dataset is a stream without `features`, as after `map`: name its columns and their types, "
            "`dataset.cast(datasets.Features(…))`."
        )
    for column in ("image", "mask") if needs_masks else ("image",):
        if column not in dataset.column_names:
            raise ValueError(
                f"The {name} dataset has no column `{column}`; it has {', '.join(dataset.column_names)}. Rename one with "
                f"`dataset.rename_column`. {IMAGE_FOLDER_REMEDY}"
            )
        if not isinstance(dataset.features[column], datasets.Image):
            raise ValueError(
                f"Column `{column}` of the {name} dataset is {dataset.features[column]}, expected `datasets.Image()`: "
                f'`dataset.cast_column("{column}", datasets.Image())`.'
            )
    if needs_labels and "label" not in dataset.column_names:
        raise ValueError(
            f"The {name} dataset has no column `label`; it has {', '.join(dataset.column_names)}. Rename one, or finetune "
            "without labels: `relevance_target='prediction'` and `confidence_target='prediction'`."
        )
    label = dataset.features.get("label")
    if label is not None and "int" not in str(getattr(label, "dtype", "")):
        raise ValueError(
            f"Column `label` of the {name} dataset is {label}, expected integers, indices of the model's classes: "
            '`dataset.class_encode_column("label")` numbers names in alphabetical order.'
        )


def check_rows(
    dataset: datasets.Dataset, name: str, num_labels: int, bad_masks: Literal["skip", "refuse"] = "skip"
) -> datasets.Dataset:
    """Decode and check every row once, so that training does not fail on it hours later.

    Args:
        name: name of the dataset in errors.
        bad_masks: whether rows with empty or full masks are skipped or refused.

    Returns:
        The dataset without rows whose mask is empty or full.

    Raises:
        ValueError: image or mask of a row cannot be decoded or differ in size, a mask has several channels, a label is
            not a class of the model, masks are refused, or no rows remain. The message names rows and files.
    """
    features, kept, problems, uninformative = dataset.features, [], [], []
    rows = tqdm(undecoded(dataset.with_format(None)), desc=f"checking {name} rows", unit="row", leave=False)
    for index, row in enumerate(rows):
        where = name_of(row, index)
        pictures, problem = decode_pictures(row, features)
        problem = problem or label_problem(row.get("label", 0), num_labels)
        if problem is not None:
            problems.append(f"{where}: {problem}")
        elif extent := extent_without_edges(pictures["mask"]):
            uninformative.append(f"{where}: mask is {extent}")
        else:
            kept.append(index)

    if problems:
        raise ValueError(
            f"{len(problems)} of {len(dataset)} rows of the {name} dataset cannot be used:\n{_head(problems)}.\n"
            "Repair them, or leave them out with `dataset.filter` or `dataset.select`."
        )
    found = f"{len(uninformative)} of {len(dataset)} masks of the {name} dataset are empty or full"
    if uninformative and bad_masks == "refuse":
        raise ValueError(
            f"{found}:\n{_head(uninformative)}.\nRepair them, or leave these rows out with `bad_masks='skip'`."
        )
    if not kept:
        raise ValueError(f"The {name} dataset has no row with a usable mask ({len(dataset)} rows).")
    if not uninformative:
        return dataset
    logger.warning(f"{found}; their rows are left out:\n{_head(uninformative)}")
    return dataset.select(kept)


def name_of(row: dict, index: int) -> str:
    """Name of an undecoded row in errors: its number and its file."""
    return f"row {index} ({(row['image'] or {}).get('path') or 'image in the table'})"


def decode_pictures(row: dict, features: datasets.Features) -> tuple[dict[str, Image.Image], str | None]:
    """Decode `image` and `mask` of a row. Returns them and their problem, or `None`."""
    pictures = {}
    for column in ("image", "mask"):
        if row[column] is None:
            return pictures, f"{column} is missing"
        try:
            pictures[column] = features[column].decode_example(row[column])
            if column == "image":
                to_rgb(pictures[column])  # refuses what transforms cannot handle
        except Exception as error:  # codecs raise any type
            return pictures, f"{column} cannot be decoded: {error}"
    return pictures, mask_problem(pictures["image"], pictures["mask"])


def extent_without_edges(mask: Image.Image) -> str | None:
    """`empty` or `full` for masks without foreground or background, otherwise `None`."""
    low, high = mask_to_tensor(mask).aminmax()
    return None if low != high else "empty" if high == 0 else "full"


def label_problem(label: int | None, num_labels: int | None = None) -> str | None:
    """Problem of a label, or `None`. `num_labels` is `None` if unknown."""
    if label is None:
        return "label is missing"
    if isinstance(label, int) and (label < 0 or (num_labels is not None and label >= num_labels)):
        classes = f"the model's classes 0–{num_labels - 1}" if num_labels is not None else "all classes"
        return f"label {label} is outside {classes}"
    return None


def _head(lines: list[str]) -> str:
    shown = "\n".join(f"  {line}" for line in lines[:NUM_SHOWN])
    return shown + (f"\n  … and {len(lines) - NUM_SHOWN} more" if len(lines) > NUM_SHOWN else "")
