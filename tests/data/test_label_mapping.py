"""Labels are mapped by the names of their classes, and what cannot be mapped is refused."""

import datasets
import pytest
from transformers import ViTConfig

from robust_vit_hf import RobustViTTrainer, make_image_processor
from robust_vit_hf.data.classes import (
    align_labels,
    check_one_numbering,
    check_same_classes,
    class_names,
    classes_of_model,
    label_mapping,
    wnids,
)
from robust_vit_hf.evaluation.sets import EvaluationSet

from ..helpers import layouts
from ..helpers.tiny import LABELS, masked_dataset, named, tiny_config, tiny_vit


def renamed(others: dict[int, str]) -> list[str]:
    """The classes of ImageNet, some with other names."""
    return [others.get(label, name) for label, name in enumerate(class_names())]


FOREIGN = [f"part {number}" for number in range(1000)]


@pytest.mark.parametrize(
    "names, model_names, mapping",
    [
        ("abcd", "abcd", "same"),
        ("abcd", "dcba", {0: 3, 1: 2, 2: 1, 3: 0}),
        ("db", "abcd", {0: 3, 1: 1}),  # a part of the model's classes
        ("ab", "abcd", "same"),
        (None, "abcd", None),
        ("0123", "abcd", None),
        ("012", "abcd", "refused"),  # would be the first of the model's
        (["LABEL_0", "LABEL_1"], "abcd", "refused"),
        ("abce", "abcd", "refused"),
        (wnids()[:4], "abcd", "refused"),
        (["0", "1", "10", "2"], [str(index) for index in range(11)], {0: 0, 1: 1, 2: 10, 3: 2}),
        (["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"], {0: 1, 1: 0}),
        (["1", "0"], ["LABEL_0", "LABEL_1"], {0: 1, 1: 0}),
        (class_names()[1:3], [f"{name}, a synonym" for name in class_names()[:999]] + ["x"], "refused"),
        ([*class_names()[:600], *class_names()[:599:-1]], class_names(), "refused"),  # "crane" stands twice
        ("abcd", [f"LABEL_{index}" for index in range(4)], None),
        ("abd", [f"LABEL_{index}" for index in range(4)], "refused"),  # "d" would be the third
        ("012", [f"LABEL_{index}" for index in range(4)], "same"),
        (wnids()[:3], class_names(), "same"),
        (wnids()[7:9], class_names(), {0: 7, 1: 8}),
        (wnids()[7:9], [f"LABEL_{index}" for index in range(1000)], {0: 7, 1: 8}),
        ([f"{name}, a synonym" for name in class_names()], class_names(), "same"),
        # As many classes as ImageNet-1k, but others; names of half of its classes in their places are enough.
        (wnids()[7:9], FOREIGN, "refused"),
        (FOREIGN, class_names(), "refused"),
        (wnids()[7:9], [*class_names()[:499], *FOREIGN[499:]], "refused"),
        (wnids()[7:9], [*class_names()[:500], *FOREIGN[500:]], {0: 7, 1: 8}),
        # A few synonyms are names of other classes; but two classes may not be swapped.
        (wnids()[7:9], renamed({836: "sunglasses", 837: "dark glasses", 744: "missile", 657: "rocket"}), {0: 7, 1: 8}),
        (wnids()[7:9], renamed({836: "sunglasses", 837: "sunglass"}), "refused"),
        (wnids()[7:9], renamed({place: class_names()[place + 10] for place in range(10)}), "refused"),
    ],
)
def test_mapping(names, model_names, mapping):
    if mapping == "refused":
        with pytest.raises(ValueError, match=r"`photos` has"):
            label_mapping(names, model_names, "photos")
    else:
        found = label_mapping(names, model_names, "photos")
        assert found == mapping or (mapping == "same" and found == {label: label for label in found})


def test_only_names_that_the_model_lacks_are_counted():
    with pytest.raises(ValueError, match="3 classes, 1 of which the model does not have, such as `n00007846`"):
        label_mapping([*wnids()[:2], "n00007846"], class_names(), "photos")


def test_lists_of_labels_and_missing_ones():
    features = {"label": datasets.List(datasets.ClassLabel(names=list("ab"))), "image": datasets.Image()}
    image = masked_dataset(1)[0]["image"]
    rows = datasets.Dataset.from_dict({"label": [[0, 1], []], "image": [image] * 2}, datasets.Features(features))
    found = EvaluationSet.of(rows).for_model("photos", ViTConfig(**named("ba")))
    assert found.accepted == [[1, 0], []]


def test_logits_are_restricted_to_the_classes_of_the_set():
    """Also of a model with the classes of ImageNet in another order: goldfish and stingray are its last but one and last but six."""
    image = datasets.Dataset.from_dict({"image": [layouts.picture(0)]}, datasets.Features({"image": datasets.Image()}))
    rows = EvaluationSet(image, [[6]], class_subset=(1, 6), num_classes=1000, class_names=wnids())
    found = rows.for_model("imagenet-a", ViTConfig(**named(wnids()[::-1])))
    assert found.accepted == [[993]] and found.class_subset == (993, 998)
    assert rows.for_model("imagenet-a", ViTConfig(**named(wnids()))).class_subset == (1, 6)


def test_training_sees_the_models_classes(tmp_path):
    """Labels of the same rows, whatever their numbering."""
    rows, model = masked_dataset(8), tiny_vit(**named("dbca"))
    trainer = RobustViTTrainer(model, tiny_config(tmp_path), rows)
    batch = next(iter(trainer.get_test_dataloader(trainer.train_dataset)))
    assert batch["labels"].tolist() == ["dbca".index("abcd"[label]) for label in LABELS]


@pytest.mark.parametrize(
    "before, after, first",
    [
        ("abcd", "abdc", "class 2 is `c` before and `d` after"),
        (["0", "1", "10", "2"], ["0", "1", "2", "10"], "class 2 is `10` before and `2` after"),  # sorted as text
        (["0", "1", "3", "2"], [f"LABEL_{index}" for index in range(4)], "class 2 is `3` before and `2` after"),
    ],
)
def test_models_with_other_classes_are_not_compared(before, after, first):
    with pytest.raises(ValueError, match=f"cannot be compared: {first}"):
        check_same_classes(before, after)


@pytest.mark.parametrize("names", ["abcd", "0123", ["5", "6", "7", "8"]])
def test_models_without_names_are_compared(names):
    default = [f"LABEL_{index}" for index in range(4)]
    check_same_classes(default, names)
    check_same_classes(names, default)


def test_names_that_are_numbers_are_text():
    assert classes_of_model(ViTConfig(id2label={0: 0, 1: 10})) == ["0", "10"]


def test_rows_without_a_label_stay_without_one():
    rows = masked_dataset(4).remove_columns("label")
    rows = rows.add_column("label", [0, -1, None, 3], feature=datasets.ClassLabel(names=list("abcd")))
    aligned = align_labels(rows, "dcba", "photos")
    assert aligned["label"] == [3, -1, None, 0]
    assert [image.tobytes() for image in aligned["image"]] == [image.tobytes() for image in rows["image"]]


@pytest.mark.parametrize("names, warned", [(["0", "1", "10", "2"], "2 is `10`"), ("0123", ""), ("abcd", "")])
def test_whole_numbers_are_places_of_the_classes(names, warned, caplog):
    """Of folders whose names are numbers, sorted as text, they are not the names."""
    rows = masked_dataset(4).cast_column("label", datasets.Value("int64"))
    assert align_labels(rows, names, "photos")["label"] == rows["label"]
    assert warned in caplog.text and bool(caplog.text) == bool(warned)


def test_splits_of_other_classes_for_a_model_that_numbers_them(tmp_path):
    """Each split would be numbered by itself. A model with names, or numbers as names, maps them."""

    def of(names):
        feature = datasets.ClassLabel(names=list(names))
        return datasets.Dataset.from_dict({"label": [0]}, datasets.Features({"label": feature}))

    numbers = ["LABEL_0", "LABEL_1"]
    for names, splits in ((numbers, "ab ab"), ("abc", "ab ac"), (numbers, "01 1"), (["LABEL_0"] * 1000, "ab ac")):
        check_one_numbering(names, dict(zip(("train", "validation"), map(of, splits.split()), strict=True)))
    with pytest.raises(ValueError, match="class 1 is `b` in `train`, `c` in `validation`"):
        check_one_numbering(numbers, {"train": of("ab"), "plain": None, "validation": of("ac")})
    train, others = masked_dataset(8), masked_dataset(8).cast_column("label", datasets.ClassLabel(names=list("abce")))
    model = tiny_vit(id2label={index: f"LABEL_{index}" for index in range(4)})
    processor = make_image_processor("paper", 32)
    with pytest.raises(ValueError, match="class 3 is `d` in `train`, `e` in `eval`"):
        RobustViTTrainer(model, tiny_config(tmp_path), train, others, processing_class=processor)
