"""Attributes of images, and images with those of others."""

import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from robust_vit_hf.data.composition import ATTRIBUTES, chosen_attributes, edited


SIDE = 48


def scene(seed: int, top: int = 20, left: int = 20, height: int = 8, width: int = 8) -> tuple[torch.Tensor, ...]:
    """Noise in the middle grey with a white rectangle as the object, and its mask, of one image."""
    image = 0.4 + 0.2 * torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., top : top + height, left : left + width] = 1
    return torch.where(mask > 0, 1.0, image), mask


def given(name: str, *images: torch.Tensor) -> torch.Tensor:
    return ATTRIBUTES[name].edit(*images)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_image_keeps_its_own_attributes(name):
    image, mask = scene(0)
    found = given(name, image, mask, image, mask)
    beside = torch.nn.functional.max_pool2d(mask, 3, 1, 1) == 0  # the pixels around an object are filled
    assert torch.allclose(torch.where(beside, found, image), image, atol=1e-4)


def test_regions_of_the_background():
    (image, mask), (donor, donor_mask) = scene(0), scene(1)
    inside, border, corners = (
        (given(name, image, mask, donor, donor_mask) != image).any(dim=1, keepdim=True)
        for name in ("background", "border", "corners")
    )
    assert torch.equal(inside.int() + border.int(), 1 - mask.int())  # disjoint, and nothing is left out
    assert border[..., :4, :].all() and not border[..., 4:-4, 4:-4].any()  # a twelfth of the side
    assert corners[..., :12, -12:].all() and not corners[..., 12:-12, :].any()


def test_colours_are_those_of_the_background_of_the_donor():
    (image, mask), (donor, donor_mask) = scene(0), scene(1)
    cast = donor * torch.tensor([1.5, 1.0, 0.5]).view(1, 3, 1, 1)
    cast[..., :4, :] = cast[..., :4] = 0  # a frame, which is another attribute
    found = given("colours", image, mask, cast, donor_mask)
    inner = (slice(None), slice(None), slice(14, 18), slice(14, 34))
    assert found[inner].mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.75, 0.5, 0.25], abs=0.04)
    for contrast, gain in ((0.0, 1 / 4), (9.0, 4.0)):  # at most that much less, and more
        found = given("colours", image, mask, 0.5 + contrast * (donor - 0.5), donor_mask)
        assert (found[inner].std() / image[inner].std()).item() == pytest.approx(gain, rel=0.01)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_normalised_images_are_edited_as_their_pixels(name):
    (image, mask), (donor, donor_mask) = scene(0), scene(1)
    black, white = torch.tensor([-2.0, -1.0, 0.5]), torch.tensor([1.0, 3.0, 1.5])
    normalised, other = (black.view(3, 1, 1) + (white - black).view(3, 1, 1) * one for one in (image, 0.8 * donor))
    found = edited(name, (normalised, mask), (other, donor_mask), (black, white))
    pixels = given(name, image, mask, 0.8 * donor, donor_mask)
    torch.testing.assert_close(
        (found - black.view(3, 1, 1)) / (white - black).view(3, 1, 1), pixels, atol=1e-4, rtol=0
    )


def test_sharpness_is_that_of_the_donor():
    (image, mask), (donor, donor_mask) = scene(0), scene(1)
    soft, far = (gaussian_blur(one, [11, 11], [1.6, 1.6]) for one in (image, donor))
    blurred = given("sharpness", image, mask, far, donor_mask)
    assert (blurred - soft).abs().mean() < 0.1 * (image - soft).abs().mean()
    sharpened = given("sharpness", gaussian_blur(image, [5, 5], [0.7, 0.7]), mask, donor, donor_mask)
    assert (sharpened - image).abs().mean() < (gaussian_blur(image, [5, 5], [0.7, 0.7]) - image).abs().mean()
    noise = gaussian_blur(
        image * (1 - mask) + 0.5 * mask, [19, 19], [3.0, 3.0]
    )  # of which no more than four times is left
    assert noise.std() < given("sharpness", noise, mask, donor, donor_mask).std() < 4 * noise.std()


def test_objects_take_place_and_size_of_the_donors():
    (image, mask), (donor, donor_mask) = scene(0), scene(1, 6, 30, 16, 8)
    found = given("place", image, mask, donor, donor_mask)
    assert found[..., 7:21, 27:41].min() > 0.95  # white, and as long as the longer side of the donor's
    assert found[..., 22:26, 22:24].max() < 0.75  # where the object was


def test_attributes_are_chosen_by_name():
    assert chosen_attributes(["all"]) == tuple(ATTRIBUTES)
    assert chosen_attributes(["place", "border", "place"]) == ("place", "border")
    with pytest.raises(ValueError, match="frame"):
        chosen_attributes(["frame", "border"])
