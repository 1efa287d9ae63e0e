"""The images of an improvement by role: to train on, to select a candidate with, and to report on."""

from dataclasses import dataclass, replace

import datasets

from ..data.composition import draw_donors
from ..data.dataset_digest import pixels_of
from ..data.draw_images import choose_images, halves, held_out, labels_of
from ..data.find_images import Images, UnknownSplit, find_images
from ..data.groups import group_shares, groups_of
from ..data.label_mapping import check_one_numbering
from ..data.transforms import eval_transform
from ..evaluation.measurements.accuracy import Accuracy
from ..evaluation.session import Session
from ..evaluation.sets import EvaluationSet
from ..training.background_swap import BackgroundPool
from ..utils.privacy import public_name
from .options import ImproveOptions


SELECTION_IMAGES = 200  # at most, of the validation images
APART = [(first, second) for first in ("train", "backgrounds") for second in ("selection", "report")]
APART.append(("selection", "report"))


@dataclass(frozen=True)
class ImageRoles:
    """Labelled images by role, of which no image has two.

    Args:
        images: `train`, at most as many as a training sees; `selection` and `report`, one half each of the validation images.
        pool: the pictures of `backgrounds`, if given.
        group_weights: shares of the groups of all images that can be trained on; `None` without groups.
    """

    images: dict[str, Images]
    pool: BackgroundPool | None
    notes: list[str]
    group_weights: dict[str, float] | None


def images_by_role(options: ImproveOptions, session: Session) -> ImageRoles:
    """Find the images of each role, in which the pictures of `backgrounds` have no part. Without validation split, training images
    are held out. Images without classes get those that the original model predicts."""
    pool, notes = None, []
    if options.backgrounds is not None:
        pool = BackgroundPool(options.backgrounds, eval_transform(session.sides["before"].processor))
    train = _labelled(
        find_images(options.dataset, options.train_split, masks=options.mask_folder), options, session, notes
    )
    try:
        found = find_images(options.dataset, options.eval_split, masks=options.mask_folder)
        validation = _labelled(found, options, session, notes)
    except UnknownSplit:
        if options.is_given("eval_split"):
            raise
        train, validation = map(train.select, held_out(labels_of(train.rows), options.seed))
        notes.append(
            f"`{public_name(train.source)}` has no split `{options.eval_split}`: {len(validation.rows)} of "
            f"the images of `{options.train_split}` were held out. If your model was trained on them, its top-1 on them is too high."
        )
    check_one_numbering(session.classes, {of.split: of.rows for of in (train, validation)})
    if shared := train.mask_files & validation.mask_files:
        raise ValueError(
            f"Splits overlap: `{min(shared)}` is the mask of images of both. Put masks into folders named as the splits."
        )
    groups_of(validation.rows, options.eval_split)
    weights = group_shares(train.rows, options.train_split)
    count = options.max_steps * options.train_batch_size
    images = {"train": replace(train, rows=choose_images(train.rows, count, options.seed))}
    numbers = {"selection": SELECTION_IMAGES, "report": options.num_images}
    for half, (role, count) in zip(halves(labels_of(validation.rows), options.seed), numbers.items(), strict=True):
        images[role] = replace(validation, rows=choose_images(validation.rows.select(half), count))
        draw_donors(labels_of(images[role].rows).tolist())  # refuses one class before masks, which take long, are made
    rows = {role: of_role.rows for role, of_role in images.items()}
    pictures, features = [str(path) for path in pool.paths] if pool else [], {"image": datasets.Image()}
    rows["backgrounds"] = datasets.Dataset.from_dict({"image": pictures}, datasets.Features(features))
    pixels = {role: pixels_of(of_role) for role, of_role in rows.items()}
    for first, second in APART:
        if shared := len(pixels[first] & pixels[second]):
            raise ValueError(
                f"Splits overlap: {shared} images of `{second}` are in `{first}` too. Look for copies, and see --train_split, "
                "--eval_split and --backgrounds."
            )
    return ImageRoles(images, pool, notes, weights)


def _labelled(images: Images, options: ImproveOptions, session: Session, notes: list[str]) -> Images:
    """The labelled images; without labels, all with those that the original model predicts, of which `notes` tell."""
    if "label" in images.rows.column_names:
        return images.labelled()
    (side,), accuracy = session.sides.values(), Accuracy(options.batch_size, options.num_workers, relevance=False)
    found = accuracy.measure(side, EvaluationSet.of(images.rows), session, images.split, None)
    predicted = found.columns["predictions"][:, 0]
    notes.append(
        f"The images of `{images.split}` have no classes: right is what your model predicts for an image as it is, and top-1 is how often "
        "the prediction stays that."
    )
    feature = datasets.ClassLabel(names=session.classes)
    return replace(images, rows=images.rows.add_column("label", predicted.tolist(), feature=feature))
