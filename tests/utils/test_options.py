"""What counts as given: an option that is named, even with the value that it has by default."""

import pytest

import robust_vit_hf
from robust_vit_hf.data.emoji_shift import CLASS_NAMES
from robust_vit_hf.training import load_data
from robust_vit_hf.training.recipes import train_arguments

from ..helpers.commands import call
from ..helpers.tiny import masked_dataset, named, save_pretrained, tiny_vit


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model, and images without validation split."""
    folder = tmp_path_factory.mktemp("inputs")
    save_pretrained(tiny_vit(), folder / "model")
    masked_dataset(16).to_parquet(folder / "data" / "train-00000.parquet")
    return folder


@pytest.mark.usefixtures("datasets_cache")
def test_on_the_command_line(inputs, tmp_path):
    """Where it is not given, images are held out instead."""
    options = ("--model", inputs / "model", "--dataset", inputs / "data", "--output_dir", tmp_path / "out")
    assert 'Unknown split "validation"' in call("improve", *options, "--eval_split", "validation").error


def test_in_python(inputs, tmp_path):
    with pytest.raises(ValueError, match="leave out --split"):
        robust_vit_hf.diagnose(inputs / "model", "emoji-shift", split="validation", output_dir=tmp_path / "out")


@pytest.mark.usefixtures("datasets_cache")
def test_in_a_recipe(inputs, tmp_path, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(load_data.logger, "warning", warnings.append)
    recipe = tmp_path / "recipe.yaml"
    options = f"model: {inputs}/model\ndataset: {inputs}/data\neval_strategy: 'no'\nreport_to: none\nuse_cpu: true\n"
    for text, expected in (("", 0), ("samples_per_class: 2\n", 1)):
        recipe.write_text(options + text)
        _, data, _ = train_arguments(recipe, output_dir=str(tmp_path))
        load_data.load_data(data, tiny_vit().config, seed=0, needs_validation=False)
        assert len(warnings) == expected
    monkeypatch.setattr(load_data, "benchmark_sets", lambda *given: given)  # for a model of its classes
    config = tiny_vit(**named(CLASS_NAMES), num_labels=96).config
    assert load_data.load_data(data, config, 3, False)[2] == (data.images_per_set, 3)
    recipe.write_text(f"{options}eval_split: validation\n")
    with pytest.raises(ValueError, match='Unknown split "validation"'):
        load_data.load_data(train_arguments(recipe, output_dir=str(tmp_path))[1], tiny_vit().config, 0, False)
