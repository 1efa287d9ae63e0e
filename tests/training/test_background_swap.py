"""The background swap: what it keeps, what it takes, and what decides it."""

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from robust_vit_hf import RobustViTTrainer, eval_transform, make_image_processor
from robust_vit_hf.evaluation.other_backgrounds import pool_picture
from robust_vit_hf.training.methods import augmentations
from robust_vit_hf.training.methods.augmentations import load_backgrounds, swap_backgrounds

from ..helpers.layouts import save
from ..helpers.tiny import tensor_rows, tiny_config, tiny_vit
from .test_trainer import logged, trained


SWAP = {"background_swap": 0.5, "confidence_target": "original"}


def batch(size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one colour each, its number, whose objects are squares of the colour 100 + number."""
    images = torch.arange(size).float()[:, None, None, None].expand(-1, 3, 16, 16).clone()
    mask = torch.zeros(size, 1, 16, 16)
    mask[:, :, 4:9, 5:11] = 1
    return images + 100 * mask, mask


@pytest.mark.parametrize("halo", [False, True])
def test_objects_stay_and_backgrounds_are_those_of_other_images(halo):
    """The pixels around an object, which often have some of its colour, are filled too."""
    images, mask = batch()
    if halo:
        around = torch.zeros_like(mask)
        around[:, :, 3:10, 4:12] = 1
        images = torch.where((around > 0) & (mask == 0), 50.0, images)
    given, foreground = images.clone(), mask.bool().expand_as(images)
    swapped = swap_backgrounds(images, mask, 1.0, (0,))
    assert torch.equal(swapped[foreground], images[foreground]) and torch.equal(images, given)
    for index, image in enumerate(swapped):
        colours = image[~foreground[index]].unique()
        assert len(colours) == 1 and colours.item() in set(range(6)) - {index}, index


def test_fractional_masks_blend():
    images, mask = batch(2)
    mask[0, :, 4] = 0.25
    images = batch(2)[0]
    swapped = swap_backgrounds(images, mask, 1.0, (0,))
    assert torch.equal(swapped[0, :, 4, 5:11], 0.25 * images[0, :, 4, 5:11] + 0.75 * 1.0)
    assert torch.equal(swapped[0, :, 5, 5:11], images[0, :, 5, 5:11])
    soft = torch.cat([mask[:1].clamp(min=0.25), mask[1:]])  # which is nowhere the background alone
    assert swap_backgrounds(images, soft, 1.0, (0,))[0, :, 0, 0].tolist() == [0.75] * 3


def test_an_image_with_a_full_mask_keeps_its_background():
    images, mask = batch(3)
    mask[0] = 1
    swapped = swap_backgrounds(images, mask, 1.0, (0,))
    assert torch.equal(swapped[0], images[0])
    assert swapped[1, 0, 0, 0] == 2 and swapped[2, 0, 0, 0] == 1  # and it has no background to give


def test_the_probability():
    images, mask = batch(400)
    for probability, low, high in ((0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)):
        swapped = swap_backgrounds(images, mask, probability, (0,))
        assert low <= (swapped != images).flatten(1).any(dim=1).float().mean() <= high


def test_the_seed_alone_decides():
    images, mask = batch(50)
    first = swap_backgrounds(images, mask, 0.5, (3, 1))
    torch.manual_seed(9)
    assert torch.equal(swap_backgrounds(images, mask, 0.5, (3, 1)), first)
    assert not torch.equal(swap_backgrounds(images, mask, 0.5, (3, 2)), first)


def test_one_mask_does_not_change_the_draws_of_other_images():
    images, mask = batch(20)
    images[::2] -= 100 * mask[::2]  # of one colour all over, so that their background is the same under any mask
    swapped = swap_backgrounds(images, mask, 0.8, (0,))
    mask[::2] = 0
    other = swap_backgrounds(images, mask, 0.8, (0,))
    assert torch.equal(other[::2], images[::2]) and not torch.equal(swapped[::2], images[::2])
    assert torch.equal(other[1::2], swapped[1::2]) and not torch.equal(swapped[1::2], images[1::2])


def test_the_swap_changes_training_and_not_evaluation(tmp_path):
    rows, eval_rows = tensor_rows(8), tensor_rows(6, seed=1)
    plain = trained(tmp_path / "a", rows, eval_rows=eval_rows, confidence_target="original")
    swapped = trained(tmp_path / "b", rows, eval_rows=eval_rows, **SWAP)
    assert logged(plain, "loss") != logged(swapped, "loss")
    swapped.model.load_state_dict(plain.model.state_dict())
    assert swapped.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


def test_each_batch_of_an_accumulation_has_a_swap_of_its_own(tmp_path, monkeypatch):
    seeds = []

    def noted(pixel_values, mask, probability, seed, pool):
        seeds.append(seed)
        return swap_backgrounds(pixel_values, mask, probability, seed, pool)

    monkeypatch.setattr(augmentations, "swap_backgrounds", noted)
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    assert trained(tmp_path, tensor_rows(8), **SWAP | settings).state.global_step == 2
    assert len(seeds) == len(set(seeds)) == 4


@pytest.mark.parametrize(
    "adapted",
    [
        None,
        {},
        {"bias": "all"},
        {"modules_to_save": ["classifier"]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": False},
    ],
)
@pytest.mark.parametrize("given", ["config", "model"])
def test_the_original_is_the_model_before_the_first_step(tmp_path, adapted, given):
    """Whatever an adapter trains, changes of the base, or was trained before; and without dropout, in whatever mode it was given."""
    rows = tensor_rows(8)
    model, adapter = tiny_vit(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train(), {}
    if adapted is not None:
        lora = LoraConfig(r=2, target_modules="all-linear", **adapted)
        if given == "config":
            adapter["peft_config"] = lora
        else:
            model = get_peft_model(model, lora)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter += 0.3 * ("lora_B" in name)
    config = tiny_config(tmp_path, confidence_target="original", learning_rate=0.05, relevance_weight=0.0)
    torch.manual_seed(0)
    trainer = RobustViTTrainer(model, config, rows, rows, **adapter)
    assert trainer.evaluate()["eval_confidence_loss"] == pytest.approx(0, abs=1e-6)
    pixel_values = torch.stack([row["pixel_values"] for row in rows])
    expected = trainer.model(pixel_values=pixel_values).logits.detach()
    if given == "config" and (adapted or {}).get("init_lora_weights", True):
        torch.testing.assert_close(expected, tiny_vit()(pixel_values=pixel_values).logits, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    torch.testing.assert_close(trainer.method.original(pixel_values=pixel_values).logits, expected)
    assert trainer.evaluate()["eval_confidence_loss"] > 0.001


@pytest.fixture
def pictures(tmp_path):
    """Pictures of one grey each, 40, 80 and 120, in a folder and below it."""
    for level, name in ((40, "a.png"), (80, "b.jpg"), (120, "below/c.png")):
        save(Image.new("RGB", (50, 40), (level,) * 3), tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def pool_of(folder) -> datasets.Dataset:
    return load_backgrounds(str(folder), eval_transform(make_image_processor("paper", 16)))


def test_backgrounds_of_a_folder(pictures):
    """Objects stay, and every other pixel is of one of the pictures; all are drawn, by the seed alone."""
    pool = pool_of(pictures)
    images, mask = batch(60)
    swapped = swap_backgrounds(images, mask, 0.5, (0,), pool)
    foreground = mask.bool().expand_as(images)
    assert torch.equal(swapped[foreground], images[foreground])
    levels = {round(level / 127.5 - 1, 3): 0 for level in (40, 80, 120)}
    kept = 0
    for index, image in enumerate(swapped):
        outside = image[~foreground[index]]
        if torch.equal(image, images[index]):
            kept += 1
            continue
        (colour,) = {round(float(value), 3) for value in outside}
        levels[min(levels, key=lambda level: abs(level - colour))] += 1
        assert min(abs(level - colour) for level in levels) < 0.02
    assert 15 <= kept <= 45 and all(levels.values())
    assert torch.equal(swapped, swap_backgrounds(images, mask, 0.5, (0,), pool))
    assert not torch.equal(swapped, swap_backgrounds(images, mask, 0.5, (1,), pool))
    drawn = np.array([[pool_picture(pool, composite, row).mean() for row in range(8)] for composite in range(8)])
    assert np.ptp(drawn, axis=0).min() > 0.2 and np.ptp(drawn, axis=1).min() > 0.2  # by composite and by image


def test_half_of_the_pictures_are_flipped(tmp_path):
    halves = np.zeros((16, 16, 3), dtype=np.uint8)
    halves[:, 8:] = 255
    Image.fromarray(halves).save(tmp_path / "halves.png")
    images, mask = batch(80)
    swapped = swap_backgrounds(images, mask, 1.0, (0,), pool_of(tmp_path))
    flipped = [bool(image[0, 0, 0] > image[0, 0, -1]) for image in swapped]
    assert 25 < sum(flipped) < 55


def test_training_with_backgrounds_of_a_folder(pictures, tmp_path):
    """Another training than with those of the batch."""
    settings = {"relevance_weight": 0.0, "max_steps": 2}
    processor = make_image_processor("paper", 32)

    def make_trainer(name, **options):
        config = tiny_config(tmp_path / name, **settings, **SWAP, **options)
        return RobustViTTrainer(tiny_vit(), config, tensor_rows(8), processing_class=processor)

    trainers = [make_trainer("batch"), make_trainer("folder", backgrounds=str(pictures))]
    for trainer in trainers:
        trainer.train()
    assert not torch.equal(*(trainer.model.classifier.weight for trainer in trainers))


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "._broken.png").write_bytes(b"of macOS, and no picture")
    with pytest.raises(ValueError, match="expected a folder with pictures"):
        pool_of(tmp_path)
