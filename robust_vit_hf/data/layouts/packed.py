"""Packed images: archives, which are unpacked, and tables, which are streamed."""

import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from pkgutil import resolve_name

import datasets
import fsspec
import pyarrow as pa
from filelock import FileLock
from huggingface_hub import HfApi, file_exists, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from pyarrow import parquet
from tqdm.auto import tqdm
from transformers.utils import logging

from ...utils.files import cache_of, check_no_pattern
from ...utils.privacy import is_hub_id
from ...utils.stage import STAGE_FILE
from ..classes import are_named_as_imagenet, class_names_of, label_of_wnid, subset, wnids
from ..known_sets import KNOWN_SETS, KnownSet
from ..schema import Source, features_of
from ..write_dataset import made_from
from .official import VALIDATION_NAME, read_mappings, with_real_labels, without_border


logger = logging.get_logger(__name__)

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ARCHIVE_SUFFIXES)


def unpacked(archives: list[Path]) -> Path:
    """Folder with the contents of archives, each in a subfolder of its name, cached until an archive changes."""
    root, folders = cache_of(archives), {}
    for archive in archives:
        suffix = next(filter(archive.name.lower().endswith, ARCHIVE_SUFFIXES))
        folders[root / archive.name[: -len(suffix)]] = archive
    if len(folders) < len(archives):
        raise ValueError(f"Archives have the same name: {', '.join(map(str, archives))}. Leave out or rename one.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f"{root.name}.lock")):
        for folder, archive in folders.items():
            if not folder.is_dir():
                unpack(archive, folder)
    return root


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive. `folder` appears only once it is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (_unpack_zip if archive.suffix.lower() == ".zip" else _unpack_tar)(archive, partial)
        partial.rename(folder)
    except Exception as error:  # codecs raise any type
        raise ValueError(
            f"`{archive}` ({archive.stat().st_size:,} bytes) cannot be unpacked: {error}. If it is truncated, download it again; "
            "if it is encrypted, unpack it with `7z x`, which asks for the password, and give the folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_tar_end(archive: Path) -> None:
    """Check the end of an uncompressed tar: `tarfile` accepts files that are cut between two members."""
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - 1024))
        end = stream.read()
    if len(end) < 1024 or end.strip(b"\0"):
        raise ValueError(f"`{archive}` is truncated: it has no end-of-archive mark. Download it again.")


def _unpack_tar(archive: Path, folder: Path) -> None:
    if archive.suffix.lower() == ".tar":
        check_tar_end(archive)
    with tarfile.open(archive) as tar:
        for member in _progress(archive, tar):
            tar.extract(member, folder, filter="data")  # rejects paths and links to outside, and devices (PEP 706)
        if archive.suffix.lower() != ".tar":
            while tar.fileobj.read(2**20):  # to the end of the compressed stream, where its checksum is
                pass


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in _progress(archive, packed.infolist()):
            path = packed.extract(member, folder)  # without `..` and leading slashes
            # As tar does, so that modification times are the same when the archive is unpacked again.
            with suppress(ValueError):  # reproducible builds write invalid dates
                changed = datetime(*member.date_time).timestamp()
                os.utime(path, (changed, changed))


def _progress(archive: Path, members: Iterable) -> Iterable:
    return tqdm(members, desc=f"unpacking {archive.name}", unit="file", leave=False)


def open_table(name: str, place: str, options: dict) -> Source:
    """Open a set as a streamed table: a prepared set, a known copy, or another table from whose names the classes are known."""
    known, made = KNOWN_SETS[name], _made_as(name, place, options)
    if made is None and (alien := sorted(options.keys() - {"split", "labels", "mappings", "cropped"})):
        raise ValueError(
            f"`{place}` is a table, for which {' and '.join(alien)} cannot be chosen: leave it out, or give the official folder or archive."
        )
    features = features_of(name, made or {})
    dataset, state = _load(known, place, options.get("split"))
    required, row_of = [column for column in ("image", "label") if column in features], None
    if not (features.keys() <= {*dataset.column_names} and dataset.features.get("label") == features.get("label")):
        if place in known.hub and known.hub_row:
            row_of = resolve_name(f"{__package__}.{known.hub_row}")
        else:
            is_copy = place in known.hub or (known.hub and numbered_tars(Path(place)))  # only copies are such tars
            image, label, labels = _columns(dataset, features, _numbering(known, options) if is_copy else None, place)
            required = [image, label]
            row_of = partial(_row_of, image_column=image, label_column=label, labels=labels, source=place)
    rows = partial(_rows, dataset=dataset.decode(False), row_of=row_of, required=required, source=place)
    source = Source(rows, list(range(dataset.num_shards)), state)
    if made is None and options.get("labels") == "real":
        source, features = source.changed(with_real_labels), features_of(name, options)
    if options.get("cropped") and not (made or {}).get("cropped"):
        source = source.changed(without_border)
    return replace(source, features=features)


def _made_as(name: str, source: str, options: dict) -> dict | None:
    prepared, made = prepared_set(source)
    if prepared is None:
        return None
    asked = {key: value for key, value in options.items() if key not in ("split", "imagenet")}
    # An uncropped set can still be cropped; `cropped=False` only rejects a cropped one.
    compared = [{key: value for key, value in given.items() if key != "cropped"} for given in (asked, made)]
    recropped = made.get("cropped") and options.get("cropped") is False
    if prepared != name or recropped or (compared[0] and compared[0] != compared[1]):
        was, wanted = f"`{prepared}` with {made or 'no options'}", f"`{name}` with {asked or 'none'}"
        raise ValueError(f"`{source}` was prepared as {was}, not as {wanted}: prepare it again into another folder.")
    return made


def prepared_set(source: str) -> tuple[str | None, dict]:
    """Return set and options of a prepared folder or of a prepared set on the Hub; `None` and empty for others."""
    folder = Path(source)
    if is_hub_id(source):
        try:
            folder = Path(hf_hub_download(source, STAGE_FILE, repo_type="dataset")).parent
        except LocalEntryNotFoundError as error:  # offline, or a failed request
            logger.warning(f"`{source}` is treated as not prepared, since its {STAGE_FILE} could not be read: {error}")
        except (EntryNotFoundError, RepositoryNotFoundError) as error:  # if it is gated, loading it raises an error
            if isinstance(error, EntryNotFoundError) and file_exists(source, "made_by.json", repo_type="dataset"):
                raise ValueError(f"`{source}` is from an earlier version: prepare and push it again.") from error
    inputs = made_from(folder)
    return (inputs["set"], inputs["options"]) if "options" in inputs else (None, {})


def _load(known: KnownSet, place: str, split: str | None) -> tuple[datasets.IterableDataset, object]:
    """Return the streamed table, and a state that changes if the table does."""
    folder, (config, default) = Path(place), known.hub.get(place, (None, known.splits[0]))
    split = split or default
    check_no_pattern(folder)
    if not folder.is_dir():
        return datasets.load_dataset(place, config, split=split, streaming=True), HfApi().dataset_info(place).sha
    if has_parquet(folder):
        files, splits = sorted(folder.rglob("*.parquet")), datasets.get_dataset_split_names(place)
        split = splits[0] if len(known.splits) == len(splits) == 1 else split
        rows = datasets.load_dataset(place, split=split, streaming=True)
    else:
        files = numbered_tars(folder)
        for tar in files:
            check_tar_end(tar)
        data_files = {split: [*map(str, files)]}
        rows = datasets.load_dataset("webdataset", data_files=data_files, split=split, streaming=True)
    return rows, [(path, path.stat().st_mtime_ns) for path in files]


def has_parquet(folder: Path) -> bool:
    return any(True for place in (folder, folder / "data") for _ in place.glob("*.parquet"))


def numbered_tars(folder: Path) -> list[Path]:
    """Webdataset shards of evaluation images in a folder. Tars of official archives are not numbered."""
    tars = [path for place in (".", "validation", "val", "test") for path in sorted((folder / place).glob("*.tar"))]
    return [path for path in tars if "train" not in path.name and re.fullmatch(r"(.*[-_])?\d+\.tar", path.name)]


def _numbering(known: KnownSet, options: dict) -> Sequence[int | list[int]]:
    if "mappings" in known.options:
        accepted = read_mappings(Path(options["mappings"])) if "mappings" in options else {}
        return [accepted[folder] for folder in sorted(accepted)]
    return subset(known.class_subset) if known.class_subset else range(len(wnids()))


def _columns(
    dataset: datasets.IterableDataset, features: datasets.Features, numbering: Sequence | None, source: str
) -> tuple[str, str, Mapping]:
    """Return the columns of images and of labels, and the ImageNet-1k labels by the values of the latter."""
    image, label = (
        next((name for name in names if name in dataset.column_names), None)
        for names in (("image", "webp", "jpg", "jpeg", "png"), ("wnid", "cls", "label"))
    )
    names = getattr(dataset.features.get(label), "names", None) or ()
    if names and label_of_wnid().keys() >= {*names}:
        numbering = [label_of_wnid()[name] for name in names]
    elif numbering is None and are_named_as_imagenet(names):
        numbering = range(len(names))
    labels = label_of_wnid() if label == "wnid" else dict(enumerate(numbering or ()))
    # Such columns can only give an image, and a class of ImageNet or classes in a known numbering.
    several = isinstance(features.get("label"), datasets.List) and not isinstance(next(iter(labels.values()), 0), list)
    if image is None or not labels or several or features.keys() != {"image", "label", "file_name"}:
        raise ValueError(
            f"`{source}` has the columns {', '.join(dataset.column_names)}, which do not tell the classes of this set. Give "
            "a prepared folder, the `mappings` of ObjectNet, or columns `image` and `wnid`."
        )
    return image, label, labels


def _rows(
    shards: list[int],
    dataset: datasets.IterableDataset,
    row_of: Callable[..., dict] | None,
    required: Sequence[str],
    source: str,
) -> Iterator[dict]:
    """Undecoded rows of a streamed set. Rows that lack a value of `required` cannot be used."""
    for shard in shards:
        # In batches of one, since plain iteration in a `DataLoader` worker would split the shard again.
        for index, batch in enumerate(dataset.shard(dataset.num_shards, shard).iter(1)):
            row = {column: values[0] for column, values in batch.items()}
            name = row.get("file_name") or _file_name(row, required[0]) or f"{shard}-{index}"
            if missing := [column for column in required if row[column] is None]:
                problem = f"`{source}`, `{name}` has no {' and no '.join(missing)}: add what is missing, or leave the row out."
                yield {"file_name": name, "problem": problem}
            else:
                yield row if row_of is None else row_of(row, name=name)


def _row_of(row: dict, name: str, image_column: str, label_column: str, labels: Mapping, source: str) -> dict:
    value = row[label_column]
    if value not in labels:  # an error for the whole set: with another numbering, every label would be wrong
        raise ValueError(f"`{source}`, `{name}`: label {value} is outside the numbering of {len(labels)} classes.")
    return {"image": row[image_column], "label": labels[value], "file_name": name}


def _file_name(row: dict, image_column: str) -> str | None:
    path = PurePosixPath((row[image_column] or {}).get("path") or "").name
    if original := VALIDATION_NAME.search(" ".join([path, str(row.get("json", "")), row.get("__key__", "")])):
        return f"{original[0]}.JPEG"
    return f"{row['__key__']}.{image_column}" if "__key__" in row else path or None


def class_names_of_files(files: Sequence[str], declared: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the class names in the files of a split, or those that its card declares. Files that number their classes differently
    are rejected: `datasets` would give all of them the names of the first."""
    with ThreadPoolExecutor() as pool:
        names = [known or declared for known in pool.map(class_names_of_file, files)]
    if others := [file for file, known in zip(files, names, strict=True) if known != names[0]]:
        raise ValueError(
            f"`{files[0]}` and `{others[0]}` are of one split, but number their classes differently: write both with the same `ClassLabel`."
        )
    return names[0]


def class_names_of_file(file: str) -> tuple[str, ...] | None:
    try:
        with fsspec.open(file) as opened:
            return class_names_of(datasets.Features.from_arrow_schema(parquet.read_schema(opened)))
    except pa.ArrowInvalid as error:
        raise ValueError(f"`{file}` cannot be read: {error}") from error
