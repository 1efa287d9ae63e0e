"""Names that mask makers look for: those of the classes, or of a file."""

import json

import datasets
import pytest

from robust_vit_hf.masks.by_names import prompts_of_labels

from ..helpers.commands import call
from ..helpers.tiny import masked_dataset


def prompts_of(names: list[str], path=None, given: object = None) -> list[list[str]]:
    """Prompts of each label, with a file of these contents."""
    if path is not None:
        path.write_text(json.dumps(given))
    features = datasets.Features({"label": datasets.ClassLabel(names=names)})
    return [*map(prompts_of_labels(features, path), range(len(names)))]


def test_prompts_of_other_encodings(tmp_path):
    """With a byte order mark, and names that are not ASCII; and in UTF-16, which is not guessed."""
    features = datasets.Features({"label": datasets.ClassLabel(names=["bär", "dog"])})
    content = json.dumps({"bär": ["tatze"], "dog": ["head"]}, ensure_ascii=False)
    (tmp_path / "parts.json").write_text(content, encoding="utf-8-sig")
    prompts = prompts_of_labels(features, tmp_path / "parts.json")
    assert [prompts(label) for label in range(2)] == [["tatze"], ["head"]]
    (tmp_path / "parts.json").write_text(content, encoding="utf-16")
    with pytest.raises(ValueError, match=r"parts.json` must be a JSON object"):
        prompts_of_labels(features, tmp_path / "parts.json")


@pytest.mark.parametrize("found", [None, [], ["head", " . "], "head"])
def test_prompts_are_checked_first(tmp_path, found):
    """Before models are loaded, which are not there."""
    masked_dataset(1).to_parquet(tmp_path / "images.parquet")
    (tmp_path / "parts.json").write_text(json.dumps({"a": ["a"], "d": found}))
    options = ("--prompts", tmp_path / "parts.json", "--output_dir", tmp_path / "out")
    refused = call("masks", "sam3", "--images", tmp_path / "images.parquet", *options)
    assert "parts.json` must be a JSON object of classes and lists of names" in refused.error
    assert not (tmp_path / "out").exists()


def test_classes_outside_of_imagenet_keep_their_names():
    assert prompts_of(["n01440764", "n01318894"]) == [["tench"], ["n01318894"]]  # the second is of ImageNet-21k


def test_prompts_of_some_classes(tmp_path):
    names, path = ["tench", "dog"], tmp_path / "parts.json"
    assert prompts_of(names, path, {"tench": ["head", "fins"]}) == [["head", "fins"], ["dog"]]
    with pytest.raises(ValueError, match="`tensh`"):
        prompts_of(names, path, {"tensh": ["head", "fins"]})


def test_class_folders_are_prompted_by_words(tmp_path):
    """Without underscores and synonyms, which no detector knows; the file has the folder's name or the words."""
    folders = ["great white shark, white shark, man-eater", "great_grey_owl", "_", "n01440764"]
    assert prompts_of(folders) == [["great white shark"], ["great grey owl"], ["_"], ["tench"]]
    for first, second in ((folders[0], folders[1]), ("great white shark", "great grey owl")):
        prompts = prompts_of(folders, tmp_path / "parts.json", {first: ["fin"], second: ["beak"]})
        assert prompts == [["fin"], ["beak"], ["_"], ["tench"]]
