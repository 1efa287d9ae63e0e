"""The sets by name, those of the paper and later ones, and their loader."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import datasets
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers.utils import logging

from ..utils.public_names import is_hub_id
from .archives import ARCHIVE_SUFFIXES, is_archive, unpacked
from .imagenet_classes import subset
from .layouts.class_folders import wnid_source
from .layouts.counteranimal import open_counteranimal
from .layouts.hard_imagenet import open_hard_imagenet
from .layouts.hub_tables import has_parquet, open_columns
from .layouts.imagenet import open_validation, with_real_labels
from .layouts.imagenet_9 import open_imagenet_9
from .layouts.imagenet_d import LABELS_FILE, open_imagenet_d
from .layouts.imagenet_s import open_imagenet_s, open_paper_split
from .layouts.imagenet_segmentation import open_segmentation
from .layouts.imagenet_v2 import open_v2
from .layouts.objectnet import open_objectnet, read_mappings, without_border
from .layouts.si_score import METADATA_COLUMNS, open_si_score
from .layouts.waterbirds import CLASSES, GROUP, HUB_COLUMNS, open_waterbirds, row_of_hub
from .layouts.webdataset import has_numbered_tars
from .parquet_writer import SETTINGS_FILE, read_settings
from .schema import Source, make_features
from .set_names import (
    COUNTERANIMAL_PARTS,
    IMAGENET_9_VARIATIONS,
    IMAGENET_D_FACTORS,
    SI_SCORE_FACTORS,
    V2_VARIANTS,
    WATERBIRDS,
)


logger = logging.get_logger(__name__)

V2_ARCHIVES = "vaishaal/ImageNetV2"


@dataclass(frozen=True)
class ImageSet:
    """A set of images.

    Args:
        origin: URL of its archives.
        open: returns the [`Source`] of a folder (or file) in the official layout; takes `options`.
        columns: arguments of [`make_features`].
        options: names of the options of the loader.
        splits: names of the splits that are prepared; the first is the default of the option `split`, if there are several.
        hub: configuration and split by Hub id, the default first.
        hub_row: row of the set from a row of a table on the Hub, and its name; by default, columns are found by their names.
        hub_columns: columns that `hub_row` needs.
        hub_files: patterns of the files to download, by Hub id of a set of plain files in the official layout.
        class_subset: name of the class subset, see [`subset`], whose order is the label numbering of Hub copies;
            `None` for all classes.
    """

    origin: str
    open: Callable[..., Source]
    columns: dict = field(default_factory=dict)
    options: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("test",)
    hub: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    hub_row: Callable[..., dict] | None = None
    hub_columns: tuple[str, ...] = ()
    hub_files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    class_subset: str | None = None

    @property
    def split(self) -> str:
        return self.splits[0]


@cache
def image_sets() -> dict[str, ImageSet]:
    """The sets by name. Their classes are looked up on use, which requires timm."""
    factors = {"factors": {factor: datasets.Value("float64") for factor in METADATA_COLUMNS}}
    return {
        "imagenet-1k": ImageSet(
            "https://image-net.org",
            open_validation,
            options=("labels",),
            splits=("validation",),
            hub={
                "ILSVRC/imagenet-1k": (None, "validation"),
                "timm/imagenet-1k-wds": (None, "validation"),
                "clip-benchmark/wds_imagenet1k": (None, "test"),
            },
        ),
        "imagenet-a": ImageSet(
            "https://github.com/hendrycks/natural-adv-examples",
            partial(wnid_source, class_subset="imagenet-a"),
            hub={"barkermrl/imagenet-a": (None, "train"), "clip-benchmark/wds_imagenet-a": (None, "test")},
            class_subset="imagenet-a",
        ),
        "imagenet-r": ImageSet(
            "https://github.com/hendrycks/imagenet-r",
            partial(wnid_source, class_subset="imagenet-r"),
            hub={"axiong/imagenet-r": ("test", "test"), "clip-benchmark/wds_imagenet-r": (None, "test")},
            class_subset="imagenet-r",
        ),
        "imagenet-sketch": ImageSet(
            "https://github.com/HaohanWang/ImageNet-Sketch",
            wnid_source,
            hub={"clip-benchmark/wds_imagenet_sketch": (None, "test")},
        ),
        "imagenet-v2": ImageSet(
            "https://github.com/modestyachts/ImageNetV2",
            open_v2,
            options=("variant",),
            hub={V2_ARCHIVES: (None, "test"), "clip-benchmark/wds_imagenetv2": (None, "test")},
        ),
        "objectnet": ImageSet(
            "https://objectnet.dev",
            open_objectnet,
            {"several_labels": True},
            options=("mappings", "cropped"),
            hub={"clip-benchmark/wds_objectnet": (None, "test")},
        ),
        **{
            f"si-score-{factor}": ImageSet(
                "https://github.com/google-research/si-score", partial(open_si_score, factor=factor), factors
            )
            for factor in SI_SCORE_FACTORS
        },
        "imagenet-segmentation": ImageSet(
            "https://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat",
            open_segmentation,
            {"label": False, "mask": True},
        ),
        "imagenet-s919": ImageSet(
            "https://github.com/LUSSeg/ImageNet-S",
            open_imagenet_s,
            {"mask": True},
            options=("imagenet",),
            splits=("train",),
        ),
        "paper-split": ImageSet(
            "https://github.com/LUSSeg/ImageNet-S",
            open_paper_split,
            {"mask": True},
            options=("imagenet", "split", "class_seed", "num_classes", "samples_per_class"),
            splits=("train", "validation"),
        ),
        **{
            f"imagenet-9-{variation}": ImageSet(
                "https://github.com/MadryLab/backgrounds_challenge",
                partial(open_imagenet_9, variation=variation),
                {"several_labels": True, "mask": variation == "original"},
            )
            for variation in IMAGENET_9_VARIATIONS
        },
        **{
            f"imagenet-d-{factor}": ImageSet(
                "https://huggingface.co/datasets/zcs15/ImageNet-D",
                partial(open_imagenet_d, factor=factor),
                {"several_labels": True},
                hub_files={"zcs15/ImageNet-D": (LABELS_FILE, f"{factor}/*")},
            )
            for factor in IMAGENET_D_FACTORS
        },
        **{
            f"counteranimal-{part}": ImageSet(
                "https://counteranimal.github.io", partial(open_counteranimal, part=part)
            )
            for part in COUNTERANIMAL_PARTS
        },
        "hard-imagenet": ImageSet(
            "https://github.com/mmoayeri/HardImageNet",
            open_hard_imagenet,
            {"mask": True},
            options=("imagenet", "split"),
            splits=("validation", "train"),
        ),
        WATERBIRDS: ImageSet(
            "https://github.com/kohpangwei/group_DRO",
            open_waterbirds,
            {"class_names": CLASSES, "factors": GROUP},
            options=("split", "segmentations"),
            splits=("train", "validation", "test"),
            hub={"grodino/waterbirds": (None, "train")},
            hub_row=row_of_hub,
            hub_columns=HUB_COLUMNS,
        ),
    }


def load_image_set(
    name: str, source: str | Path | None = None, *, streaming: bool = False, **options
) -> datasets.Dataset | datasets.IterableDataset:
    """Load a set, with the columns of [`make_features`].

    Args:
        name: one of `image_sets()`.
        source: folder of the official layout, archive, `gtsegs_ijcv.mat`, folder of webdataset tars, folder written by
            `robust-vit data prepare`, or Hub id; by default the set's Hub dataset.
        streaming: whether to read rows on the fly, in constant memory. Otherwise, rows (paths, or bytes if the source
            is not an image folder) are first written to the cache of `datasets`.
        options: options of the set: `labels="real"` (imagenet-1k), `variant` (imagenet-v2), `mappings` and `cropped`
            (objectnet), `imagenet` (imagenet-s919), `imagenet`, `split`, `class_seed`, `num_classes` and
            `samples_per_class` (paper-split), `imagenet` and `split` (hard-imagenet), `split` and `segmentations`
            (waterbirds).

    Raises:
        ValueError: unknown set or option, or the source does not have the set's layout; while rows are read: a row is
            unusable.
        FileNotFoundError: the source does not exist.
        PermissionError: the set on the Hub is gated, and there is no token.
    """
    if source is not None:
        options = (
            _check_prepared(str(source), _settings(str(source)), name, options) | options
        )  # the columns depend on the options
    opened = open_source(name, [source] if source is not None else [], options)
    rows, features = partial(usable_rows, rows=opened.rows), features_of(name, options)
    if streaming:
        return datasets.IterableDataset.from_generator(rows, features, gen_kwargs={"shards": opened.shards})
    # All inputs of the rows: code, options, and state of the source.
    state = [version("robust-vit-hf"), name, options, opened.shards, opened.state]
    state += [shard.path.stat().st_mtime_ns for shard in opened.shards if hasattr(shard, "path")]
    try:
        return datasets.Dataset.from_generator(
            rows,
            features,
            gen_kwargs={"shards": opened.shards},
            fingerprint=hashlib.sha256(repr(state).encode()).hexdigest()[:16],
        )
    except DatasetGenerationError as error:
        raise error.__cause__ from None


def open_source(name: str, sources: Sequence[str | Path], options: dict) -> Source:
    """The undecoded rows of a set.

    Args:
        sources: one folder, file or Hub id; or archives; empty for the set's Hub dataset.
        options: as for [`load_image_set`], which also lists the errors.
    """
    image_set = get_image_set(name, options)
    path = find_source(name, sources, options)
    if path is not None and not has_numbered_tars(path) and not has_parquet(path):
        if path.is_file() and name != "imagenet-segmentation":
            raise ValueError(f"`{path}` is a file; expected a folder, or an archive ({', '.join(ARCHIVE_SUFFIXES)}).")
        return image_set.open(path, **options)

    place = str(path or next(iter(sources or image_set.hub)))
    splits, local_labels = _settings(place), subset(image_set.class_subset) if image_set.class_subset else None
    if "segmentations" in options and not splits:
        raise ValueError(
            f"`{place}` is a table without the names of CUB: give the folder of the official archive, to which the segmentations "
            "belong."
        )
    if splits:
        made = _check_prepared(place, splits, name, options)
        split = options.get("split", image_set.split)
        if len(image_set.splits) > 1 and split not in splits:
            raise ValueError(
                f"`{place}` holds the splits {', '.join(splits)} of `{name}`, and no `{split}`: ask for one of them "
                f"with `split`, or prepare it (`--split {split}`)."
            )
        opened = open_columns(place, None, split, features_of(name, made), local_labels)
        return without_border(opened) if options.get("cropped") and not made.get("cropped") else opened
    if options.get("variant", V2_VARIANTS[0]) != V2_VARIANTS[0]:
        raise ValueError(
            f"`{place}` is the {V2_VARIANTS[0]} variant of ImageNet-V2: leave the source out, or give the archive of "
            f"`{options['variant']}`."
        )
    config, split = image_set.hub.get(place, (None, image_set.split))
    split = options.get("split", split)
    if name == "objectnet":
        accepted = read_mappings(Path(options["mappings"])) if "mappings" in options else {}
        local_labels = [accepted[folder] for folder in sorted(accepted)]
    features = features_of(name, options)
    needed = image_set.hub_columns if image_set.hub else tuple(features)
    opened = open_columns(place, config, split, features, local_labels, image_set.hub_row, needed)
    if options.get("labels") == "real":
        opened = with_real_labels(opened)
    return without_border(opened) if options.get("cropped") else opened


def prepared_options(source: str | None) -> dict:
    """Options of the set in a prepared folder, or in one pushed to the Hub; empty for other sources."""
    return _prepared(_settings(source))[1] if source else {}


def _settings(source: str) -> dict[str, dict]:
    """Recorded settings of a folder or of a set on the Hub, see [`read_settings`]."""
    if not is_hub_id(source):
        return read_settings(Path(source))
    try:
        return read_settings(Path(hf_hub_download(source, SETTINGS_FILE, repo_type="dataset")).parent)
    except LocalEntryNotFoundError as error:  # offline, or a failed request
        logger.warning(f"`{source}` is taken as it is, since its {SETTINGS_FILE} could not be read: {error}")
    except (EntryNotFoundError, RepositoryNotFoundError):  # also gated: loading the set says so
        pass
    return {}


def _prepared(splits: dict[str, dict]) -> tuple[str | None, dict]:
    """Set and options of a prepared source, by its [`_settings`]; `None` and empty for others, such as one with new masks."""
    settings = next(iter(splits.values()), {})
    options = {key: value for key, value in settings.items() if key not in ("set", "sources", "split")}
    return (settings["set"], options) if "sources" in settings else (None, {})


def _check_prepared(source: str, splits: dict[str, dict], name: str, options: dict) -> dict:
    """Refuse a prepared source of another set or with other options. Returns its options."""
    prepared, made = _prepared(splits)
    if prepared is None:
        return {}
    # An uncropped set can still be cropped; `cropped=False` only refuses a cropped one.
    compared, asked = (
        {key: value for key, value in given.items() if key not in ("split", "cropped")} for given in (made, options)
    )
    if prepared != name or (asked and asked != compared) or (made.get("cropped") and options.get("cropped") is False):
        given = {key: value for key, value in options.items() if key != "split"}
        raise ValueError(
            f"`{source}` was prepared as `{prepared}` with {made or 'no options'}, not as `{name}` with "
            f"{given or 'none'}: prepare it again into another folder."
        )
    return made


def get_image_set(name: str, options: dict) -> ImageSet:
    """A set by name.

    Raises:
        ValueError: unknown set, or unknown option of it.
    """
    if name not in image_sets():
        raise ValueError(f"There is no set `{name}`; expected one of {', '.join(image_sets())}.")
    image_set = image_sets()[name]
    if unknown := sorted(options.keys() - set(image_set.options)):
        known = ", ".join(image_set.options) or "none"
        raise ValueError(f"`{name}` takes no option {', '.join(unknown)}; it takes {known}.")
    return image_set


def features_of(name: str, options: dict) -> datasets.Features:
    """Columns of a set with the given options."""
    if options.get("labels") == "real":
        return make_features(several_labels=True)
    with_masks = {"mask": True} if "segmentations" in options else {}
    return make_features(**image_sets()[name].columns | with_masks)


def find_source(name: str, sources: Sequence[str | Path], options: dict) -> Path | None:
    """Path of a set: the given one, or the folder with the unpacked given or downloaded archives. `None` for a table
    on the Hub.

    Raises:
        FileNotFoundError: the source neither exists nor is a Hub id, or the set is not on the Hub.
        ValueError: several sources are given that are not all archives.
    """
    paths, image_set = [Path(source) for source in sources], image_sets()[name]
    if not sources and not (image_set.hub or image_set.hub_files):
        raise FileNotFoundError(
            f"`{name}` is not on the Hub: get it from {image_set.origin}, and give the folder or archive."
        )
    place = next(iter(map(str, sources or image_set.hub_files)), None)
    if place in image_set.hub_files and not (sources and Path(place).exists()):
        patterns = list(image_set.hub_files[place])
        return Path(snapshot_download(place, repo_type="dataset", allow_patterns=patterns))
    if name == "imagenet-v2" and (not sources or str(sources[0]) == V2_ARCHIVES):
        archive = f"imagenetv2-{options.get('variant', V2_VARIANTS[0])}.tar.gz"
        paths = [Path(hf_hub_download(V2_ARCHIVES, archive, repo_type="dataset"))]
    if paths and all(map(is_archive, paths)):
        return unpacked(paths)
    if len(paths) > 1:
        raise ValueError(f"`{name}`: give one folder, or archives alone; got {', '.join(map(str, paths))}.")
    if paths and paths[0].exists():
        return paths[0]
    if paths and not is_hub_id(str(sources[0])):
        raise FileNotFoundError(
            f"There is no file or folder `{sources[0]}`, and it is not a Hub id (owner/name) either."
        )
    return None


def usable_rows(shards: list, rows: Callable[[list], Iterator[dict]]) -> Iterator[dict]:
    """Rows; raises a `ValueError` at the first unusable one."""
    for row in rows(shards):
        if "problem" in row:
            raise ValueError(row["problem"])
        yield row
