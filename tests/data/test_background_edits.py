"""Objects on other backgrounds: donors, pixels of each condition, and images with the attributes of others."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from robust_vit_hf.data import background_edits
from robust_vit_hf.data.background_edits import ATTRIBUTES, CONDITIONS, chosen_attributes, compose, draw_donors, edited


def test_donors_are_of_the_class_or_of_another():
    classes = [7] * 30 + [3] * 5 + [9] * 2
    same, other = draw_donors(classes)
    for index, label in enumerate(classes):
        assert same[index] != index and classes[same[index]] == label
        assert classes[other[index]] != label
    classes = [7] * 2000 + [3] * 5 + [9] * 100
    own, others = (donors[:2000] for donors in draw_donors(classes))
    drawn = Counter(classes[donor] for donor in others)
    assert drawn.keys() == {3, 9} and abs(drawn[3] - 1000) < 100  # classes, not images, are drawn evenly
    of_three = Counter(others.tolist())
    assert all(abs(of_three[image] - 200) < 50 for image in range(2000, 2005))  # and the images of one
    of_nine, steps = others >= 2005, (own - np.arange(2000)) % 2000  # the draws of an image are independent
    for one, other in ((steps, of_nine), (steps[of_nine], others[of_nine])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_every_other_image_of_the_class_is_drawn():
    same, _ = draw_donors([0] * 4 + [1])
    drawn = [{int(draw_donors([0] * 4 + [1], seed)[0][place]) for seed in range(60)} for place in range(4)]
    assert drawn == [{0, 1, 2, 3} - {place} for place in range(4)]
    assert same[4] == -1


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="All images are of one class"):
        draw_donors([5, 5, 5])


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Object 1 on 0.2 in the left upper corner; donors of 0.4 and 0.6 with objects of 9 in the right lower one."""
    images = torch.full((1, 3, 28, 28), 0.2)
    mask, elsewhere = torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 28, 28)
    mask[..., 4:10, 4:10] = 1
    mask[..., 10, 4:10] = 0.25  # an edge
    elsewhere[..., 20:26, 20:26] = 1
    images = torch.where(mask == 1, 1.0, images)
    donors = [torch.where(elsewhere == 1, 9.0, torch.full((1, 3, 28, 28), value)) for value in (0.4, 0.6)]
    return {"image": images, "mask": mask, "same": (donors[0], elsewhere), "other": (donors[1], elsewhere)}


def test_pixels_of_each_condition(batch):
    image, mask, black = batch["image"], batch["mask"], torch.tensor([-1.0, -2.0, -3.0])
    found = compose(image, mask, batch["same"], batch["other"], black)
    assert [*found] == [*CONDITIONS]
    inside, edge = (0, slice(None), 5, 5), (0, slice(None), 10, 5)
    for name, colour in {"mixed_same": 0.4, "mixed_rand": 0.6}.items():
        expected = torch.where(mask == 1, 1.0, torch.full_like(image, colour))
        expected[..., 10:11, 4:10] = 0.25 * 0.2 + 0.75 * colour
        torch.testing.assert_close(found[name], expected)  # nothing is left of the donor's object
    torch.testing.assert_close(found["original"], image)
    torch.testing.assert_close(found["only_fg"][0, :, 0, 0], black)
    torch.testing.assert_close(found["only_fg"][inside], torch.ones(3))
    torch.testing.assert_close(found["no_fg"][inside], black)
    torch.testing.assert_close(found["no_fg"][edge], 0.25 * black + 0.75 * 0.2)
    torch.testing.assert_close(found["no_fg"][0, :, 0, 0], torch.full((3,), 0.2))
    torch.testing.assert_close(found["only_bg"], torch.full_like(image, 0.2))
    torch.testing.assert_close(found["blurred"], torch.where(mask == 1, 1.0, torch.full_like(image, 0.2)))


def test_the_blur_is_as_wide_as_documented():
    """Of one bright pixel, a spot with a standard deviation of a fourteenth of the shorter side."""
    dot = torch.zeros(1, 3, 56, 70)
    dot[..., 28, 35] = 1
    spot = compose(dot, torch.zeros(1, 1, 56, 70), dot, dot, torch.zeros(3), ["blurred"])["blurred"][0, 0]
    for profile in (spot.sum(0), spot.sum(1)):
        variance = (profile * (torch.arange(len(profile)) - len(profile) // 2) ** 2).sum() / profile.sum()
        assert variance.sqrt().item() == pytest.approx(56 / 14, rel=0.03)


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
    restored = (found - black.view(3, 1, 1)) / (white - black).view(3, 1, 1)
    torch.testing.assert_close(restored, pixels, atol=1e-4, rtol=0)


def test_sharpness_is_that_of_the_donor():
    (image, mask), (donor, donor_mask) = scene(0), scene(1)
    soft, far = (gaussian_blur(one, [11, 11], [1.6, 1.6]) for one in (image, donor))
    blurred = given("sharpness", image, mask, far, donor_mask)
    assert (blurred - soft).abs().mean() < 0.1 * (image - soft).abs().mean()
    sharpened = given("sharpness", gaussian_blur(image, [5, 5], [0.7, 0.7]), mask, donor, donor_mask)
    assert (sharpened - image).abs().mean() < (gaussian_blur(image, [5, 5], [0.7, 0.7]) - image).abs().mean()
    noise = gaussian_blur(image * (1 - mask) + 0.5 * mask, [19, 19], [3.0, 3.0])  # is amplified at most four times
    assert noise.std() < given("sharpness", noise, mask, donor, donor_mask).std() < 4 * noise.std()


def test_objects_take_place_and_size_of_the_donors():
    wider = (torch.nn.functional.pad(of, (0, 16)) for of in (*scene(0), *scene(1, 6, 30, 16, 8)))  # not square
    found = given("place", *wider)
    assert found[..., 7:21, 27:41].min() > 0.95  # white, and as long as the longer side of the donor's
    assert found[..., 22:26, 22:24].max() < 0.75  # where the object was


def test_moved_objects_are_on_mirrored_backgrounds_that_cover_the_object_of_the_donor():
    (image, mask), donor = scene(0), scene(1)
    expected = donor[0].clone()
    expected[..., 19:29, 19:29] = donor[0].roll(SIDE // 2, 3)[..., 19:29, 19:29]  # and a pixel around the object
    found = background_edits.moved(image, mask, donor, torch.tensor([[0.0, 0.0, 1.0]]))
    assert torch.equal(found[..., :-8, :], expected.flip(3)[..., :-8, :])
    assert found[..., -5:, :5].min() > 0.95  # 70 % of its size, in the lower left corner


def test_attributes_are_chosen_by_name():
    assert chosen_attributes(["all"]) == tuple(ATTRIBUTES)
    assert chosen_attributes(["place", "border", "place"]) == ("place", "border")
    with pytest.raises(ValueError, match="frame"):
        chosen_attributes(["frame", "border"])


def test_images_that_give_nothing_are_no_donors():
    """They are given backgrounds all the same, and the other draws stay as they are where all give."""
    classes, gives = np.repeat([0, 1, 2], 20), np.arange(60) % 3 > 0
    for drawn, own in zip(draw_donors(classes, 3, gives), (True, False), strict=True):
        assert (drawn >= 0).all() and gives[drawn].all()
        assert ((classes[drawn] == classes) == own).all() and (drawn != np.arange(60)).all()
        assert len({*drawn.tolist()}) > 20
    for drawn, expected in zip(draw_donors(classes, 3, np.ones(60, bool)), draw_donors(classes, 3), strict=True):
        assert np.array_equal(drawn, expected)
    same, other = draw_donors([0, 0, 1], 0, np.array([False, True, False]))
    assert same.tolist() == [1, -1, -1] and other.tolist() == [-1, -1, 1]
