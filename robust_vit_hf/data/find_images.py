"""Loading of the images of a command: rows with `image`, `mask` and `label` of a folder, table, Hub id or benchmark."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pandas as pd
from datasets.packaged_modules.parquet.parquet import Parquet
from transformers.utils import logging

from ..utils.files import cache_of, check_no_pattern, files_below, is_hidden, write_atomically
from ..utils.images import readable_suffixes
from ..utils.privacy import check_on_hub, is_hub_id
from . import emoji_shift
from .balanced_splits import hold_out
from .classes import class_names_of, nfc
from .known_sets import BUNDLED_BENCHMARK
from .layouts.own_folders import OwnFolder
from .layouts.packed import class_names_of_file, class_names_of_files, has_parquet
from .schema import Images, LeftOut, check_columns, first_few, image_names, load_rows
from .write_dataset import made_from


logger = logging.get_logger(__name__)

HELD_OUT = "validation"
LEFT_OUT_FILE = "left_out.csv"  # split, name and reason of each file that was left out
# Takes whether to stream, and returns the rows of a split, and sentences on what was left out.
Loader = Callable[[bool], tuple[Any, list[str]]]


class UnknownSplit(ValueError):
    """A dataset does not have a split."""


def write_left_out(images: Sequence[Images], folder: Path) -> list[Images]:
    """Write [`LEFT_OUT_FILE`], once for roles of one split, and return the images; notes on files in it refer to it."""

    def referring(note: str) -> str:
        return f"{note} `{LEFT_OUT_FILE}` has names and reasons." if isinstance(note, LeftOut) and note.files else note

    files = dict.fromkeys(file for of in images for note in of.notes for file in getattr(note, "files", ()))
    table = pd.DataFrame([*files], columns=["split", "file", "reason"]).to_csv(index=False)
    write_atomically(folder / LEFT_OUT_FILE, table)
    return [replace(of, notes=tuple(map(referring, of.notes))) for of in images]


def find_images(
    source: str,
    split: str,
    needs: Collection[str] = (),
    *,
    masks: str | None = None,
    streaming: bool = False,
    held_out: float | None = None,
    **options,
) -> Images:
    """Load one split of images, with its class names. A warning names images that are left out.

    Args:
        source: name of a benchmark, folder of `save_to_disk`, parquet file or folder, folder of images (in
            class folders, or with a `metadata.jsonl`), or Hub id.
        split: name of the split (`train` if a source has only one), or a slice such as `train[:80%]`.
        needs: which of the columns `label` and `mask` the command needs.
        masks: output of `robust-vit masks`, or folder of pictures, see [`with_masks_of`].
        streaming: whether to read rows on the fly, without a copy.
        held_out: share of the images of each class of `train` that is the split `validation` if the source has none, and
            is then not in `train`.
        options: options of a benchmark, such as `class_seed`.

    Raises:
        FileNotFoundError: the file, folder or Hub dataset does not exist.
        ValueError: a needed column is missing, there is no such split ([`UnknownSplit`]), or the source cannot be used.
    """
    loaders = find_splits(source, **options)
    of_masks = split.partition("[")[0]
    if held_out and HELD_OUT not in loaders and split in ("train", HELD_OUT):
        of_masks = "train"
        loaders["train"], loaders[HELD_OUT] = (partial(_part, loaders["train"], held_out, part) for part in range(2))
    rows, notes = _slice_of(loaders, split, source, streaming)
    if masks is not None:
        names, rows = image_names(rows), with_masks_of(rows, Path(masks), of_masks)
        if left := sorted({*names} - {*image_names(rows)}):
            told = f"Left out without a mask in `{Path(masks).name}`: {len(names) - len(rows)} of {len(names)} images"
            files = [(split, name, "without a mask") for name in left]
            notes.append(LeftOut(f"{told}.", files, f"{told} ({first_few(left)})."))
    check_columns(rows, split, needs)
    for note in notes:
        logger.warning(getattr(note, "named", note))
    return Images(rows, source, split, masks and origin_of_masks(masks), notes=tuple(notes))


def with_masks_of(dataset: datasets.Dataset, folder: Path, split: str) -> datasets.Dataset:
    """Add the masks of a folder by the `file_name` of the images. The folder is an output of `robust-vit masks`, of which the column
    `doubt` is added too, or holds pictures with the names of the images. Images without a mask are left out."""
    packed = has_parquet(folder)
    if "file_name" not in dataset.column_names:
        raise ValueError(
            f"The masks in `{folder}` are found by the column `file_name`, which the images do not have"
            + (f": give `{folder}`, which holds images and masks, as the dataset." if packed else ".")
        )
    if packed:
        try:
            made, key = find_images(str(folder), split, ("mask",)).rows, nfc
        except UnknownSplit as error:  # of the masks, not of the images
            raise ValueError(f"Masks: {error} Make them for it too: `robust-vit masks … --split {split}`.") from error
        known = [nfc(name) for name in made.with_format(None)["file_name"]]
        made = made.select_columns([name for name in ("mask", "doubt") if name in made.column_names])
    else:
        pictures, key = _pictures(folder / split if (folder / split).is_dir() else folder), _stem
        known, paths = [*pictures], {"mask": [*map(str, pictures.values())]}
        made = datasets.Dataset.from_dict(paths, datasets.Features({"mask": datasets.Image()}))
    places = {name: place for place, name in enumerate(known)}
    names = [name and key(name) for name in dataset.with_format(None)["file_name"]]
    kept = [index for index, name in enumerate(names) if name in places]
    if not kept:
        raise ValueError(
            f"`{folder}` has a mask for none of {len(names)} images: expected a folder with `{names[0]}.png`, and so on, the output of "
            "`robust-vit masks` for these images, or a method to make masks: dinov2, tokencut, grounded, sam3, rembg, alpha or auto."
        )
    counts, masks = Counter(names[index] for index in kept), Counter(known)
    if several := [name for name in counts if counts[name] * masks[name] > 1]:
        has = f"{counts[several[0]]} images and {masks[several[0]]} masks"
        raise ValueError(f"`{several[0]}` is the name of {has} in `{folder}`: give each image a name and a mask.")
    rows = dataset.select(kept)
    rows = rows.remove_columns([name for name in made.column_names if name in rows.column_names])
    return datasets.concatenate_datasets([rows, made.select([places[names[index]] for index in kept])], axis=1)


def _pictures(folder: Path) -> dict[str, Path]:
    pictures: dict[str, Path] = {}
    suffixes = readable_suffixes()
    for name in files_below(folder):
        if PurePosixPath(name).suffix.lower() in suffixes and not is_hidden(name):
            known = pictures.setdefault(_stem(name), folder / name)
            if known != folder / name:
                raise ValueError(f"`{known}` and `{folder / name}` are masks of one image: remove one of them.")
    return pictures


def _stem(name: str) -> str:
    """Remove the suffix of an image format from a name; the end of `scan no.5` is not one."""
    path = PurePosixPath(name)
    return nfc((path.with_suffix("") if path.suffix.lower() in readable_suffixes() else path).as_posix())


def load_masked_dataset(
    path: str, split: str, *, streaming: bool = False, **options
) -> datasets.Dataset | datasets.IterableDataset:
    """Load one split of images with masks. Arguments are those of [`find_images`], of which `path` is the source."""
    return find_images(path, split, streaming=streaming, **options).rows


def find_splits(source: str, **options) -> dict[str, Loader]:
    """Loaders of the splits of a source by name. Arguments and errors are those of [`find_images`]."""
    if source != BUNDLED_BENCHMARK:
        return _splits_of_files(source, **options)
    splits = emoji_shift.load_finetuning_splits(**options)
    return {name: partial(_stream_if, rows) for name, rows in splits.items()}


def _splits_of_files(source: str) -> dict[str, Loader]:
    path = Path(source)
    made_from(path)  # rejects a folder that is not complete
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = datasets.load_from_disk(source).with_format(None)  # it may have been saved with that of torch
        splits = {"train": saved} if isinstance(saved, datasets.Dataset) else saved
        return {split: partial(_stream_if, rows) for split, rows in splits.items()}
    if images := OwnFolder.find(path):
        return {split: partial(_load_folder, images, split) for split in images.folders}
    check_no_pattern(path)
    if path.suffix == ".parquet":
        return {"train": partial(_load, "parquet", source, "train", data_files={"train": source})}
    if path.is_file():
        raise ValueError(
            f"`{source}` is a file: expected a folder, a parquet file or a Hub id. Unpack an archive first."
        )
    if not path.is_dir() and not is_hub_id(source):
        raise FileNotFoundError(f"There is no file or folder `{source}`, and a Hub id has the form `owner/name`.")
    if not path.is_dir():
        owner = source.partition("/")[0]
        check_on_hub(source, "dataset", Path(datasets.config.HF_DATASETS_CACHE).glob(f"{owner}___*"))
    # `datasets` 5.2 identifies a folder with a card by its name and card only: for another folder of this name, or changed files, its
    # cache would return the former rows or columns.
    cache = cache_of(path / name for name in files_below(path)) if path.is_dir() else None
    builder = datasets.load_dataset_builder(source, cache_dir=cache)
    if isinstance(builder, Parquet):
        return {str(split): partial(_load_parquet, source, builder, split) for split in builder.config.data_files}
    names = builder.info.splits or datasets.get_dataset_split_names(source)
    return {split: partial(_load, source, source, split, cache_dir=cache) for split in names}


def _stream_if(rows: datasets.Dataset, streaming: bool) -> tuple[Any, list[str]]:
    return rows.to_iterable_dataset() if streaming else rows, []


def _part(loader: Loader, share: float, part: int, streaming: bool) -> tuple[Any, list[str]]:
    rows, notes = loader(False)
    parts = hold_out(rows, share)
    if not len(parts[1]):
        raise ValueError(
            f"No class has enough images to hold out {share:.0%} of them: give more images, or a split `{HELD_OUT}`."
        )
    if part:
        notes = [
            f"There is no split `{HELD_OUT}`: {len(parts[1])} of the {len(rows)} images of `train`, of every class, were held out. "
            "If your model was trained on them, its accuracy on them is too high."
        ]
    return _stream_if(rows.select(parts[part]), streaming)[0], notes


def _load_folder(images: OwnFolder, split: str, streaming: bool) -> tuple[Any, list[str]]:
    rows, notes = images.read(split)
    return rows.to_iterable_dataset(min(len(rows), 1024)) if streaming else rows, notes


def _load_parquet(source: str, builder: Parquet, split: str, streaming: bool) -> tuple[Any, list[str]]:
    files, declared = builder.config.data_files, class_names_of(builder.info.features or {})
    names = class_names_of_files([*files[split]], declared)
    # `datasets` gives all splits the names of the first, and finds its cached copy without the Hub too.
    if not Path(source).exists() and names == (declared or class_names_of_file(next(iter(files.values()))[0])):
        return _load(source, source, str(split), streaming)
    features = builder.info.features if names == declared else None
    return _load("parquet", source, "train", streaming, data_files={"train": [*files[split]]}, features=features)


def _load(name: str, source: str, split: str, streaming: bool, **options) -> tuple[Any, list[str]]:
    return load_rows(name, source, split=split, streaming=streaming, **options), []


def split_names(spec: str) -> list[str]:
    """Names of the splits in `train`, `train[:80%]`, or `train+validation`, in order."""
    return list(dict.fromkeys(part.partition("[")[0].strip() for part in spec.split("+")))


def _slice_of(loaders: dict[str, Loader], spec: str, source: str, streaming: bool) -> tuple[Any, list[str]]:
    if unknown := [name for name in split_names(spec) if name not in loaders]:
        hint = " --hold_out 0.2 holds out a fifth of the images of each class." if unknown == [HELD_OUT] else ""
        raise UnknownSplit(
            f'Unknown split "{unknown[0]}". Should be one of {[*loaders]}: `{source}` has no others.{hint}'
        )
    if spec in loaders:
        return loaders[spec](streaming)
    splits = {name: loaders[name](False) for name in split_names(spec)}
    lengths = {name: len(splits[name][0]) if name in splits else 0 for name in loaders}
    parts = datasets.ReadInstruction.from_spec(spec).to_absolute(lengths)
    for part in parts:
        labels = splits[part.splitname][0].with_format(None)
        labels = labels["label"][:] if "label" in labels.column_names else []
        if (
            part.to - part.from_ < len(labels)
            and None not in labels
            and labels == sorted(labels) != [labels[0]] * len(labels)
        ):
            raise ValueError(
                f"`{spec}` would leave out whole classes, since the images of `{part.splitname}` are sorted by class. "
                "--hold_out 0.2 holds out a fifth of the images of each class, as the split `validation`."
            )
    rows = [splits[part.splitname][0].select(range(part.from_, part.to)) for part in parts]
    if not any(map(len, rows)):
        raise ValueError(f"`{spec}` selects no images of `{source}`, which has {lengths}: give a larger part.")
    whole, _ = _stream_if(datasets.concatenate_datasets(rows), streaming)
    return whole, [note for _, notes in splits.values() for note in notes]


def origin_of_masks(source: str) -> str:
    if source == BUNDLED_BENCHMARK:
        return "exact, from the composition of the images"
    inputs = made_from(Path(source))
    method = inputs.get("method", inputs.get("set"))
    return f"made by {method}" if method else "given with the images"
