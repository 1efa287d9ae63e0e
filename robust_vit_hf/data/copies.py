"""Copies of photographs: of equal ones, one counts; near ones are told, and go to the same side of a split."""

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import xxhash
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from transformers.utils import logging

from ..utils.images import upright_image
from .classes import class_names_of
from .schema import Images, LeftOut, first_few, image_names, undecoded


logger = logging.get_logger(__name__)

SIDE = 16  # pixels of a thumbnail
# Largest differences between thumbnails of near-copies, of 255 levels: of 4×4 blocks, of pixels, and of pixels on average.
# They find all of 131 photographs as JPEGs of quality 40, also at 224 pixels, and 95 % at 112. Of 3,000 photographs, the two
# most alike have 22, 100 and 14.
BLOCKS, PIXELS, MEAN = 12, 48, 3.2


def without_copies(images: Mapping[str, Images]) -> dict[str, Images]:
    """Return images by role in which each photograph occurs once. Of those with equal pixels, the first in the order of the
    roles is kept, or none if their classes differ. Warnings and notes tell what is left out, and near-copies that are in two
    roles. If more than half of the images of a role are in an earlier role too, a `ValueError` is raised."""
    found = pd.concat([_described(role, of_role) for role, of_role in images.items()], ignore_index=True)
    rows = [undecoded(of.rows.with_format(None).select_columns("image")) for of in images.values()]
    near, equal = clusters(datasets.concatenate_datasets(rows))
    copies = found.groupby(equal)
    found["again"], found["differ"] = copies.cumcount() > 0, copies["class"].transform("nunique") > 1
    found[["role of", "of"]] = copies[["role", "name"]].transform("first")
    first_role, kept = found.groupby(near)["role"].transform("first"), {}
    for role, of_role in images.items():
        is_here = found["role"] == role
        rows, notes = found[is_here], []
        shared = rows["role of"][rows["role of"] != role]
        if 2 * len(shared) > len(rows):
            raise ValueError(
                f"Splits overlap: {len(shared)} of {len(rows)} images of `{role}` are in `{shared.iloc[0]}` too. Remove "
                "them from one of these."
            )
        again, differ = rows[rows["again"] & ~rows["differ"]], rows[rows["differ"]]
        for kind, left, of in (
            ("copies with different classes", differ, differ["class"].fillna("no class")),
            ("copies, which count once", again, again["role of"] + ": " + again["of"]),
        ):
            if len(left):
                files = [(role, name, f"{kind} ({other})") for name, other in zip(left["name"], of, strict=True)]
                told = f"Left out as {kind}: {len(left)} of {len(rows)} images"
                notes.append(
                    LeftOut(f"{told}.", files, f"{told}, {first_few((left['name'] + '` of `' + of).tolist())}.")
                )
        is_kept = ~rows["again"] & ~rows["differ"]
        if alike := int((is_kept & (first_role[is_here] != role)).sum()):
            notes.append(
                LeftOut(f"{alike} of {is_kept.sum()} images of `{role}` look nearly like images of another split.")
            )
        for note in notes:
            logger.warning(note.named)
        kept[role] = of_role.select(np.flatnonzero(is_kept)) if not is_kept.all() else of_role
        kept[role] = replace(kept[role], notes=(*of_role.notes, *notes))
    return kept


def clusters(rows: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Number the clusters of near-copies, and those of images with equal pixels, for each image `(N,)` of undecoded rows."""
    with ThreadPoolExecutor(2) as pool:  # codecs let other threads run
        batches = (pool.map(_thumbnail, batch["image"]) for batch in rows.iter(32))  # not all files fit into memory
        thumbs = np.array([thumb for batch in batches for thumb in batch], np.uint8)
    blocks = thumbs.reshape(-1, 4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(2, 4)).reshape(len(thumbs), 48)
    pairs = KDTree(blocks).query_pairs(BLOCKS, np.inf, output_type="ndarray")
    apart = np.abs(thumbs[pairs[:, 0]].astype(np.int16) - thumbs[pairs[:, 1]])
    first, second = pairs[(apart.max(axis=1, initial=0) <= PIXELS) & (apart.mean(axis=1) <= MEAN)].T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(thumbs), len(thumbs)))
    near = connected_components(graph, directed=False)[1]
    pixels = [str(index) for index in range(len(rows))]
    for index in np.flatnonzero(np.bincount(near)[near] > 1):  # others have no equal
        with suppress(Exception):  # codecs raise any type
            picture = np.asarray(upright_image(_opened(rows[int(index)]["image"])))
            pixels[index] = xxhash.xxh3_128_hexdigest(picture.tobytes() + repr(picture.shape).encode())
    return near, pd.factorize(np.array(pixels))[0]


def _thumbnail(image: dict) -> np.ndarray:
    with suppress(Exception):
        with _opened(image) as opened:
            opened.draft(None, (4 * SIDE, 4 * SIDE))  # a JPEG decodes to fewer pixels in less time
            return np.asarray(upright_image(opened).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).reshape(-1)
    return np.zeros(3 * SIDE**2, np.uint8)


def _opened(image: dict) -> Image.Image:
    return Image.open(image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"]))


def _described(role: str, images: Images) -> pd.DataFrame:
    rows, names = images.rows, class_names_of(images.rows.features)
    has_classes = "label" in rows.column_names and not images.predicted
    labels = rows.with_format(None)["label"][:] if has_classes else [None] * len(rows)
    classes = [None if label in (None, -1) else names[label] if names else str(label) for label in labels]
    return pd.DataFrame({"role": role, "name": image_names(rows), "class": classes}, dtype=object)
