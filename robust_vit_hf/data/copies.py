"""Copies of a photograph, also re-encoded or resized ones, of which one counts."""

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from transformers.utils import logging

from ..utils.files import atomic_file
from ..utils.images import upright_image
from .classes import class_names_of
from .dataset_digest import row_digest
from .find_images import Images
from .layouts.folders import LeftOut, first_few
from .schema import image_names, undecoded


logger = logging.get_logger(__name__)

SIDE = 16  # pixels of a thumbnail
# Largest differences between thumbnails of copies, of 255 levels: of 4×4 blocks, of pixels, and of pixels on average. They find all of 131
# photographs as JPEGs of quality 40, also at 224 pixels, and 95 % at 112. Of 3,000 photographs, the two most alike have 22, 100 and 14.
BLOCKS, PIXELS, MEAN = 12, 48, 3.2
FLAT = 6  # standard deviation below which thumbnails are too flat to tell images apart
THUMBNAILS_FILE = ".thumbnails.npz"  # in an output folder; hidden, since it belongs to no result


def without_copies(images: Mapping[str, Images], folder: Path | None) -> dict[str, Images]:
    """Return images by role in which each photograph occurs once. Of copies, the first in the order of the roles is kept, or none if
    their classes differ. Warnings name the images that are left out. Thumbnails are kept in the folder for the next start. If more than
    half of the images of a role are in an earlier role too, a `ValueError` is raised."""
    found = pd.concat([_described(role, of_role) for role, of_role in images.items()], ignore_index=True)
    thumbs = np.concatenate([thumbnails(of_role.rows, folder) for of_role in images.values()])
    copies = found.groupby(clusters_of(thumbs))
    found["again"], found["differ"] = copies.cumcount() > 0, copies["class"].transform("nunique") > 1
    found[["role of", "of"]] = copies[["role", "name"]].transform("first")
    left = {}
    for role, of_role in images.items():
        rows = found[found["role"] == role]
        shared = rows["role of"][rows["role of"] != role]
        if 2 * len(shared) > len(rows):
            raise ValueError(
                f"Splits overlap: {len(shared)} of {len(rows)} images of `{role}` are in `{shared.iloc[0]}` too. Remove them from one of these."
            )
        differ, again, notes = rows[rows["differ"]], rows[rows["again"] & ~rows["differ"]], []
        for kind, these, of in (
            ("copies with different classes", differ, differ["class"].fillna("no class")),
            ("copies, which count once", again, again["role of"] + ": " + again["of"]),
        ):
            if len(these):
                listed = first_few((these["name"] + "` of `" + of).tolist())
                files = [(role, name, f"{kind} ({other})") for name, other in zip(these["name"], of, strict=True)]
                told = f"Left out as {kind}: {len(these)} of {len(rows)} images"
                notes.append(LeftOut(f"{told}.", files, f"{told}, {listed}."))
                logger.warning(notes[-1].named)
        kept = np.flatnonzero(~rows["again"] & ~rows["differ"])
        left[role] = replace(of_role.select(kept), notes=(*of_role.notes, *notes)) if notes else of_role
    return left


def clusters_of(thumbs: np.ndarray) -> np.ndarray:
    """Number the clusters of copies, for each image `(N,)`, by thumbnails `(N, 768)`."""
    told = np.flatnonzero(thumbs.std(axis=1) >= FLAT)
    blocks = thumbs[told].reshape(-1, 4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(2, 4)).reshape(len(told), 48)
    near = KDTree(blocks).query_pairs(BLOCKS, np.inf, output_type="ndarray") if len(told) else np.empty((0, 2), int)
    pairs = told[near]
    apart = np.abs(thumbs[pairs[:, 0]].astype(np.int16) - thumbs[pairs[:, 1]])
    first, second = pairs[(apart.max(axis=1, initial=0) <= PIXELS) & (apart.mean(axis=1) <= MEAN)].T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(thumbs), len(thumbs)))
    return connected_components(graph, directed=False)[1]


def thumbnails(rows: datasets.Dataset, folder: Path | None = None) -> np.ndarray:
    """Thumbnails `(N, 768)`, uint8, of the images; zeros for those that cannot be read."""
    images = undecoded(rows.with_format(None).select_columns(["image"]))
    keys: list[str] = []
    known: dict[str, np.ndarray] = {}
    path = folder and folder / THUMBNAILS_FILE
    if path and path.is_file():
        with np.load(path) as kept:
            known = dict(zip(kept["keys"].tolist(), kept["thumbnails"], strict=True))
    before = len(known)
    with ThreadPoolExecutor(2) as pool:  # codecs let other threads run
        for batch in images.iter(32):  # since all files may not fit into memory
            stamps = [row_digest({"image": image, "path": image and image["path"]}) for image in batch["image"]]
            new = {stamp: image for stamp, image in zip(stamps, batch["image"], strict=True) if stamp not in known}
            known |= zip(new, pool.map(_thumbnail, new.values()), strict=True)
            keys += stamps
    if path and len(known) > before:
        with atomic_file(path) as partial, partial.open("wb") as file:
            np.savez(file, keys=[*known], thumbnails=[*known.values()])
    elif before and keys:
        logger.warning(f"Images are not decoded again to find copies: see `{path}`.")
    return np.array([known[key] for key in keys], np.uint8).reshape(-1, 3 * SIDE**2)


def _thumbnail(image: dict) -> np.ndarray:
    with suppress(Exception):  # codecs raise any type
        content = image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])
        with Image.open(content) as opened:
            opened.draft(None, (4 * SIDE, 4 * SIDE))  # a JPEG decodes to fewer pixels in less time
            return np.asarray(upright_image(opened).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).reshape(-1)
    return np.zeros(3 * SIDE**2, np.uint8)


def _described(role: str, images: Images) -> pd.DataFrame:
    rows, names = images.rows, class_names_of(images.rows.features)
    has_classes = "label" in rows.column_names and not images.predicted
    labels = rows.with_format(None)["label"][:] if has_classes else [None] * len(rows)
    classes = [None if label in (None, -1) else names[label] if names else str(label) for label in labels]
    return pd.DataFrame({"role": role, "name": image_names(rows), "class": classes}, dtype=object)
