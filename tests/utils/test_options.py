"""What counts as given: an option that is named, even with the value that it has by default."""

import pytest

import robust_vit_hf

from ..helpers.commands import call
from ..helpers.tiny import masked_dataset, save_pretrained, tiny_vit


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model, and images without validation split."""
    folder = tmp_path_factory.mktemp("inputs")
    save_pretrained(tiny_vit(), folder / "model")
    masked_dataset(16).to_parquet(folder / "data" / "train-00000.parquet")
    return folder


@pytest.mark.usefixtures("datasets_cache")
def test_on_the_command_line(inputs, tmp_path):
    options = ("--model", inputs / "model", "--dataset", inputs / "data", "--output_dir", tmp_path / "out")
    assert 'Unknown split "later"' in call("improve", *options, "--eval_split", "later").error


def test_in_python(inputs, tmp_path):
    with pytest.raises(ValueError, match="leave out --split"):
        robust_vit_hf.diagnose(inputs / "model", "emoji-shift", split="validation", output_dir=tmp_path / "out")
