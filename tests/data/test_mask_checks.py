"""One check of masks, in training, evaluation, `data describe` and `data prepare`, which names the row."""

import re

import datasets
import numpy as np
import pytest
from PIL import Image

from robust_vit_hf import eval_transform, load_masked_dataset, make_image_processor
from robust_vit_hf.data.image_sets import describe_rows
from robust_vit_hf.data.layouts.source import features_of
from robust_vit_hf.data.mask_checks import mask_problem
from robust_vit_hf.data.schema import check_rows, undecoded_rows
from robust_vit_hf.data.transforms import segmentation_transform
from robust_vit_hf.evaluation.segment import Attribution
from robust_vit_hf.evaluation.session import measure
from robust_vit_hf.evaluation.sets import EvaluationSet

from ..helpers import layouts
from ..helpers.layouts import prepare
from ..helpers.sessions import evaluate_one, session_of
from ..helpers.tiny import FEATURES, masked_rows, tiny_vit


pytestmark = pytest.mark.usefixtures("datasets_cache")


def mask_of(*values: int) -> Image.Image:
    """Mask of 8 × 8 pixels: these values, and then zeros."""
    pixels = np.zeros(64, dtype=np.uint8)
    pixels[: len(values)] = values
    return Image.fromarray(pixels.reshape(8, 8))


def with_palette(*colours: tuple[int, int, int]) -> Image.Image:
    """Mask of ones with the colours of a palette."""
    mask = Image.new("P", (8, 8))
    mask.putpalette([value for colour in colours for value in colour])
    mask.putdata(mask_of(1, 1).getdata())
    return mask


GOOD_MASKS = {
    "empty": mask_of(),
    "ones": mask_of(1, 1),
    "255": mask_of(255, 255),
    "bits": mask_of(1, 1).point(bool, "1"),
    "colours of VOC": with_palette((0, 0, 0), (128, 0, 0)),
    "soft edges": mask_of(255, 254, 128, 200, 1, 64),
    "a small box, halved": mask_of(255, 255, 255, 128, 128),
    "nearly white": mask_of(250, 250, 128),
    "five values, of which some are dark": mask_of(10, 10, 10, 20, 253, 254, *[255] * 5),
}
BAD_MASKS = {
    "VOC": (mask_of(15, 15, 15), "median of the mask's foreground is 15, expected 1 or 255"),
    "ones among others": (mask_of(1, 1, 2), "median of the mask's foreground is 1,"),
    "class ids": (mask_of(131, 131, 180, 190, 200), "has the values 131, 180, 190, 200, expected 1 or 255"),
    "a class id and ignore": (mask_of(31, 31, 255, 255, 255), "has the values 31, 255, expected 1 or 255"),
    "ones among 255": (mask_of(1, 255, 255), "has the values 1 and 255"),
    "RGB": (mask_of(255).convert("RGB"), "mask has mode RGB, expected one channel"),
    "16 bits": (mask_of(255).convert("I;16"), "mask has mode I;16, expected one channel"),
    "an inverted palette": (with_palette((255,) * 3, (0,) * 3), "palette, the background, is not black"),
    "other size": (Image.new("L", (8, 4), 255), "image is 8×8 but mask is 8×4: expected equal sizes"),
    "none": (None, "mask is missing"),
}
IMAGE = Image.new("RGB", (8, 8))


@pytest.mark.parametrize("make", [eval_transform, segmentation_transform])
def test_good_masks_pass(make):
    rows = {"image": [IMAGE] * len(GOOD_MASKS), "mask": [*GOOD_MASKS.values()]}
    assert len(make(make_image_processor("paper", 8))(rows)["mask"]) == len(GOOD_MASKS)


def test_median_of_the_foreground():
    rng = np.random.default_rng(0)
    for _ in range(300):
        values = rng.choice([0, 2, 100, 127, 128, 129, 255], rng.integers(1, 9))
        values = np.append(values, [250, 251, 252, 253, 254])  # many values, as of soft edges
        foreground = np.sort(values[values > 0])
        refused = len(foreground) > 0 and foreground[(len(foreground) - 1) // 2] < 128
        assert (mask_problem(IMAGE, mask_of(*values)) is not None) == refused, values


@pytest.mark.parametrize("name", BAD_MASKS)
def test_bad_masks_name_their_row(name, processor):
    mask, message = BAD_MASKS[name]
    rows = [{"image": IMAGE, "mask": mask_of(255), "label": 0} for _ in range(3)]
    dataset = datasets.Dataset.from_list([*rows, rows[0] | {"mask": mask}], features=FEATURES)
    model = tiny_vit()
    named = rf"Row 3 \(in the table\) cannot be used: .*{message}"
    rows = EvaluationSet.of(dataset)
    with pytest.raises(ValueError, match=named):
        evaluate_one(model, rows, processor, batch_size=3)
    with pytest.raises(ValueError, match=named):
        measure(session_of({"before": model}, {"noise": rows}, processor=processor), Attribution(("rollout",)))
    with pytest.raises(ValueError, match=rf"row 3 .*: .*{message}"):
        check_rows(dataset, "train", 4)
    assert re.search(f"row 3: .*{message}", describe_rows(undecoded_rows(dataset)))
    evaluate_one(model, rows, processor, relevance=False)  # which reads no masks


def test_prepare_rejects_bad_masks(tmp_path):
    (tmp_path / "source").mkdir()
    masks = [mask_of(255), *(mask for mask, _ in BAD_MASKS.values())]
    rows = [
        {"image": IMAGE, "mask": mask, "label": 0, "file_name": f"{index}.png"} for index, mask in enumerate(masks)
    ]
    datasets.Dataset.from_list(rows, features=features_of("imagenet-s919", {})).to_parquet(
        tmp_path / "source" / "train.parquet"
    )
    arguments = ("imagenet-s919", [str(tmp_path / "source")], tmp_path / "out")
    with pytest.raises(ValueError, match=r"`1\.png`: the median of .*--skip_bad"):
        prepare(*arguments)
    assert prepare(*arguments, skip_bad=True) == {"train": (1, len(BAD_MASKS))}
    rejected = datasets.load_dataset(str(tmp_path / "out"), "rejected", split="train")
    assert all(message in row["problem"] for row, (_, message) in zip(rejected, BAD_MASKS.values(), strict=True))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_that_cannot_be_read_name_their_file(tmp_path, monkeypatch, processor):
    layouts.image_folder(tmp_path / "photos", masked_rows(3))
    dataset = load_masked_dataset(str(tmp_path / "photos"), "train")
    rows, model = EvaluationSet.of(dataset), tiny_vit()
    for limit in (1100, 700):  # images have 2080 pixels, of which Pillow warns, or which it refuses
        with monkeypatch.context() as patched:
            patched.setattr(Image, "MAX_IMAGE_PIXELS", limit)
            with pytest.raises(ValueError, match=r"Row 0 \(.*0\.png\) cannot be used: .*(52×40|2080) pixels"):
                evaluate_one(model, rows, processor)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    for content, why in ((b"torn", "cannot identify image file"), (pointer, "a pointer of Git LFS")):
        (tmp_path / "photos" / "train" / "2.png").write_bytes(content)
        with pytest.raises(ValueError, match=rf"Row 2 \(.*2\.png\) cannot be used: {why}"):
            evaluate_one(model, rows, processor, batch_size=2)
