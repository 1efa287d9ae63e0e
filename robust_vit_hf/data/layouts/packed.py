"""Packed images: archives, which are unpacked, and tables, which are streamed."""

import re
import shutil
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from pkgutil import resolve_name

import datasets
import fsspec
import pyarrow as pa
from filelock import FileLock
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from pyarrow import parquet
from transformers.utils import logging

from ...utils.files import cache_of, check_no_pattern
from ...utils.privacy import is_hub_id
from ..classes import are_named_as_imagenet, class_names_of, label_of_wnid, subset, wnids
from ..known_sets import KNOWN_SETS, KnownSet
from ..write_dataset import RECORD_FILE, made_from
from .official import VALIDATION_NAME, read_mappings, with_real_labels, without_border
from .source import Source, features_of


logger = logging.get_logger(__name__)

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def is_archive(path: Path) -> bool:
    return path.is_file() and _suffix(path) is not None


def _suffix(path: Path) -> str | None:
    return next(filter(path.name.lower().endswith, ARCHIVE_SUFFIXES), None)


def unpacked(archives: list[Path]) -> Path:
    """Folder with the contents of archives, each in a subfolder of its name, cached until an archive changes."""
    root = cache_of(archives)
    folders = {root / archive.name[: -len(_suffix(archive))]: archive for archive in archives}
    if len(folders) < len(archives):
        raise ValueError(f"Archives have the same name: {', '.join(map(str, archives))}. Leave out or rename one.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f"{root.name}.lock")):
        for folder, archive in folders.items():
            if not folder.is_dir():
                _unpack(archive, folder)
    return root


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive to a folder, which appears only once it is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(partial)  # checks each checksum, and leaves out `..` and leading slashes
        else:
            check_tar_end(archive)
            with tarfile.open(archive) as tar:
                tar.extractall(partial, filter="data")  # rejects paths and links to outside, and devices (PEP 706)
                while tar.fileobj.read(2**20):  # to the end of a compressed stream, where its checksum is
                    pass
        partial.rename(folder)
    except Exception as error:  # codecs raise any type
        raise ValueError(
            f"`{archive}` ({archive.stat().st_size:,} bytes) cannot be unpacked: {error}. If it is truncated, download it "
            "again; if it is encrypted, unpack it with `7z x`, which asks for the password, and give the folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_tar_end(archive: Path) -> None:
    """Check the end of an uncompressed tar: `tarfile` accepts files that are cut between two members."""
    if archive.suffix.lower() == ".tar":
        with archive.open("rb") as stream:
            stream.seek(max(0, archive.stat().st_size - 1024))
            end = stream.read()
        if len(end) < 1024 or end.strip(b"\0"):
            raise ValueError(f"`{archive}` is truncated: it has no end-of-archive mark. Download it again.")


def open_table(name: str, place: str, options: dict) -> Source:
    """Open a set as a streamed table: a prepared set, a known copy, or a table from whose names the classes are known."""
    known, made = KNOWN_SETS[name], _made_as(name, place, options)
    if made is None and (alien := sorted(options.keys() - {"split", "labels", "mappings", "cropped"})):
        raise ValueError(
            f"`{place}` is a table, for which {' and '.join(alien)} cannot be chosen: leave it out, or give the official "
            "folder or archive."
        )
    features = features_of(name, made or {})
    rows, state = _load(known, place, options.get("split"))
    source = Source(rows, dict, state)
    if not (features.keys() <= {*rows.column_names} and rows.features.get("label") == features.get("label")):
        if place in known.hub and known.hub_row:
            source = Source(rows, resolve_name(f"{__package__}.{known.hub_row}"), state)
        else:
            is_copy = place in known.hub or (known.hub and numbered_tars(Path(place)))  # only copies are such tars
            image, label, labels = _columns(rows, features, _numbering(known, options) if is_copy else None, place)
            change = partial(_row_of, image_column=image, label_column=label, labels=labels, source=place)
            source = Source(rows, change, state)
    if made is None and options.get("labels") == "real":
        source, features = source.then(with_real_labels), features_of(name, options)
    if options.get("cropped") and not (made or {}).get("cropped"):
        source = source.then(without_border)
    return source.with_features(features)


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
            folder = Path(hf_hub_download(source, RECORD_FILE, repo_type="dataset")).parent
        except LocalEntryNotFoundError as error:  # offline, or a failed request
            logger.warning(
                f"`{source}` is treated as not prepared, since its {RECORD_FILE} could not be read: {error}"
            )
        except (EntryNotFoundError, RepositoryNotFoundError):  # if it is gated, loading it raises an error
            pass
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
    return rows, [(str(path), path.stat().st_mtime_ns) for path in files]


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


def _row_of(row: dict, image_column: str, label_column: str, labels: Mapping, source: str) -> dict:
    image, value = row[image_column], row[label_column]
    path = PurePosixPath((image or {}).get("path") or "").name
    name = f"{row['__key__']}.{image_column}" if "__key__" in row else row["file_name"]
    if original := VALIDATION_NAME.search(" ".join([path, str(row.get("json", "")), row.get("__key__", "")])):
        name = f"{original[0]}.JPEG"
    if value is not None and value not in labels:  # of all rows: with another numbering, every label would be wrong
        raise ValueError(f"`{source}`, `{name}`: label {value} is outside the numbering of {len(labels)} classes.")
    return {"image": image, "label": labels.get(value), "file_name": name}


def class_names_of_files(files: Sequence[str], declared: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the class names in the files of a split, or those that its card declares. Files that number their classes
    differently are rejected: `datasets` would give all of them the names of the first."""
    with ThreadPoolExecutor() as pool:
        names = [known or declared for known in pool.map(class_names_of_file, files)]
    if others := [file for file, known in zip(files, names, strict=True) if known != names[0]]:
        raise ValueError(
            f"`{files[0]}` and `{others[0]}` are of one split, but number their classes differently: write both with the "
            "same `ClassLabel`."
        )
    return names[0]


def class_names_of_file(file: str) -> tuple[str, ...] | None:
    try:
        with fsspec.open(file) as opened:
            return class_names_of(datasets.Features.from_arrow_schema(parquet.read_schema(opened)))
    except pa.ArrowInvalid as error:
        raise ValueError(f"`{file}` cannot be read: {error}") from error
