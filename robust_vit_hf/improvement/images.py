"""The images of an improvement by role: to train on, and to choose and measure candidates with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import datasets

from ..data.background_edits import draw_donors
from ..data.balanced_splits import choose_images
from ..data.classes import align_labels, check_one_numbering, classes_of_model
from ..data.copies import without_copies
from ..data.find_images import Images, find_images
from ..data.groups import group_shares, groups_of
from ..data.transforms import eval_transform
from ..evaluation.accuracy import measure_accuracy
from ..evaluation.session import Session, Side
from ..models.loading import with_classes_alone
from ..training.methods.augmentations import load_backgrounds
from .options import ImproveOptions


NAMED = 8  # classes that a sentence names


def images_by_role(
    session: Session, options: ImproveOptions, notes: list[str]
) -> tuple[dict[str, Images], datasets.Dataset | None]:
    """Find the images of the roles `train` and `validation` (or training images that are held out), and the pictures of `backgrounds`, without
    overlap. Images without labels get predicted ones."""
    pool = None
    if options.backgrounds is not None:
        pool = load_backgrounds(options.backgrounds, eval_transform(session.sides["before"].processor))
    train = _labelled(options.train_split, session, options, notes)
    validation = _labelled(options.eval_split, session, options, notes)
    check_one_numbering(session.classes, {of.split: of.rows for of in (train, validation)})
    groups_of(validation.rows, options.eval_split)
    weights = group_shares(train.rows, options.train_split)
    # With fewer than two of each class, some classes would count as classes without images.
    count = max(options.max_steps * options.train_batch_size, 2 * len({*train.rows["label"]}))
    images = {"train": replace(train, rows=choose_images(train.rows, count, options.seed), split="train")}
    rows = choose_images(validation.rows, options.num_images, options.seed)
    draw_donors(rows["label"][:])  # rejects images of one class before masks are made, which takes long
    images["validation"] = replace(validation, rows=rows, split="validation", group_weights=weights)
    if shared := train.mask_files & validation.mask_files:
        raise ValueError(
            f"Splits overlap: `{min(shared)}` is the mask of images of both. Give two different splits, and put the masks of each into a folder of its name."
        )
    images = without_copies(images)
    if pool is not None:
        pictures = pool.with_format(None)
        files = [
            Path(image["path"]).name for image in pictures.cast_column("image", datasets.Image(decode=False))["image"]
        ]
        pictures = pictures.add_column("file_name", files)
        roles = {"backgrounds": Images(pictures, Path(options.backgrounds).name, "backgrounds")}
        roles |= {"validation": images["validation"]}
        images["validation"] = without_copies(roles)["validation"]
    return images, pool


def classes_with_images(
    images: Mapping[str, Images], classes: Sequence[str], notes: list[str]
) -> tuple[int, ...] | None:
    """Numbers of the classes with images of any role, among which top-1 counts; `None` for all. `notes` name classes that lack images."""
    present = {role: {*of_role.rows.with_format(None)["label"]} for role, of_role in images.items()}
    known = set.union(*present.values())
    for role, labels in present.items():
        if lacking := sorted(known - labels):
            listed = _listed([classes[label] for label in lacking])
            notes.append(f"Of the {len(images[role].rows)} images of `{role}` that are used, none is of: {listed}.")
    if len(known) == len(classes):
        return None
    notes.append(
        f"The model has {len(classes)} classes, {len(classes) - len(known)} of them without images: "
        f"{_listed([name for number, name in enumerate(classes) if number not in known])}. Top-1 counts among the other {len(known)}. "
        "New layers keep the weights of classes without images, or change all classes alike. Give --only_these_classes for a "
        "model of only these classes."
    )
    return tuple(sorted(known))


def with_these_classes_alone(session: Session, images: Mapping[str, Images]) -> tuple[Session, dict[str, Images]]:
    """The session with its model cut to the classes that have images of any role, and the images with labels among these classes."""
    aligned = {role: align_labels(of.rows, session.classes, of.name) for role, of in images.items()}
    labels = {role: rows.with_format(None)["label"][:] for role, rows in aligned.items()}
    side, kept = session.sides["before"], sorted(set().union(*labels.values()))
    model = with_classes_alone(side.model, kept)
    feature = datasets.ClassLabel(names=classes_of_model(model.config))
    cut = {}
    for role, of_role in images.items():
        numbers = [kept.index(label) for label in labels[role]]
        rows = of_role.rows.remove_columns("label").add_column("label", numbers, feature=feature)
        cut[role] = replace(of_role, rows=rows)
    return replace(session, sides={"before": Side.of(model, side.processor, side.source)}), cut


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f", and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _labelled(split: str, session: Session, options: ImproveOptions, notes: list[str]) -> Images:
    images = find_images(options.dataset, split, masks=options.mask_folder, held_out=options.hold_out)
    if "label" in images.rows.column_names:
        return images.labelled()
    measured = session.with_images(images)
    predicted = measure_accuracy(measured, relevance=False)[images.name].sides["before"].predictions[:, 0]
    notes.append(
        f"The images of `{split}` have no classes, so the prediction for the original image counts as right: top-1 is how often the "
        "prediction stays the same."
    )
    feature = datasets.ClassLabel(names=session.classes)
    return replace(images, rows=images.rows.add_column("label", predicted.tolist(), feature=feature), predicted=True)
