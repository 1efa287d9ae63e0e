"""Sufficient input subsets: published cases, exact backward selection, and what a subset must fulfil."""

import math
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.paper.sufficient_subsets import (
    backward_selection,
    last_sufficient_step,
    margin,
    sufficient_input_subsets,
)

from ..helpers.families import FAMILIES
from ..helpers.tiny import IMAGE_SIZE, tiny_vit


def l2_norm(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.flatten(1).norm(dim=1)


def total(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.flatten(1).sum(dim=1)


def regression(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.flatten(1) @ torch.tensor([1.0, 2.0, 0.0, 1.0])


# Values, order and subset from `test_backselect` and `test_find_sis` of google-research/sufficient_input_subsets.
PUBLISHED = [
    (l2_norm, [[0.1, 10, 5]], 1, [0, 2, 1], [math.sqrt(125), 10, 0], {1}),
    (l2_norm, [[0.1, 10, 5]], 10.5, [0, 2, 1], [math.sqrt(125), 10, 0], {1, 2}),
    (l2_norm, [[0.1, 10, 5]], 1000, [0, 2, 1], [math.sqrt(125), 10, 0], None),
    (l2_norm, [[10, 0.1]], 1, [1, 0], [10, 0], {0}),
    (l2_norm, [[3, 4]], 5, [0, 1], [4, 0], {0, 1}),
    (l2_norm, [[3, 4]], 5.1, [0, 1], [4, 0], None),
    (l2_norm, [[10, 10, 10]], 0, [0, 1, 2], [math.sqrt(200), 10, 0], set()),
    (l2_norm, [[0.1, 10, 5, 1]], 11.2, [0, 3, 2, 1], [math.sqrt(126), math.sqrt(125), 10, 0], {1, 2, 3}),
    (total, [[10, 5], [2, 3]], 4, [2, 3, 1, 0], [18, 15, 10, 0], {0}),
    (regression, [[5, 1, 6, 3]], 5, [2, 1, 3, 0], [10, 8, 5, 0], {0}),
]


@pytest.mark.parametrize("score, pixels, threshold, order, values, subset", PUBLISHED)
def test_published_cases(score, pixels, threshold, order, values, subset):
    inputs = torch.tensor(pixels, dtype=torch.float32)[None, None]
    step, scores = backward_selection(score, inputs, 1)
    assert step.flatten().argsort().tolist() == order
    torch.testing.assert_close(scores, torch.tensor([[score(inputs).item(), *values]]))
    last = last_sufficient_step(scores, threshold).item()
    assert (None if last < 0 else set((step.flatten() > last).nonzero().flatten().tolist())) == subset


@pytest.fixture(scope="module")
def model():
    return tiny_vit().double()


@pytest.fixture(scope="module")
def pixel_values():
    return torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture(scope="module")
def pairs(model, pixel_values):
    """Every image with every class, at a threshold that most pairs reach in between."""
    images, classes = pixel_values.repeat_interleave(4, dim=0), torch.arange(4).repeat(3)
    output = sufficient_input_subsets(model, images, classes, threshold=0.5, pixels_per_step=60)
    return images, classes, output


def test_a_fresh_forward_pass_reaches_the_threshold(model, pairs):
    images, classes, output = pairs
    assert output.found.sum() > 4
    sizes = output.subset[output.found].sum(dim=(1, 2, 3))
    assert sizes.min() < IMAGE_SIZE**2 / 4 and len(set(sizes.tolist())) > 3
    with torch.no_grad():
        probability = model(images * output.subset).logits.softmax(dim=1).gather(1, classes[:, None])[:, 0]
    found = output.found
    assert (
        (probability[found] >= 0.5).all()
        and not output.subset[~found].any()
        and (output.confidence[~found] < 0.5).all()
    )
    torch.testing.assert_close(probability[found], output.confidence[found])


def test_where_none_is_found_the_highest_confidence_of_all_steps_is_told(pairs):
    """Of a model of nearly even probabilities, which are highest with a part of the pixels."""
    images, classes, _ = pairs
    model = tiny_vit(initializer_range=0.05).double()
    output = sufficient_input_subsets(model, images, classes, threshold=0.5, pixels_per_step=60)
    confidences = output.margins.sigmoid()[~output.found]
    assert 0 < len(confidences) < 12 and (confidences.argmax(dim=1) > 0).all()
    assert output.confidence[~output.found].tolist() == confidences.amax(dim=1).tolist()
    assert not output.subset[~output.found].any() and (confidences < 0.5).all()


def test_masks_are_nested_and_every_step_is_scored(model, pairs):
    images, classes, output = pairs
    steps = math.ceil(IMAGE_SIZE**2 / 60)
    assert output.margins.shape == (12, steps + 1) and output.step.min() == 1 and output.step.max() == steps
    sizes = [(output.step > number).sum(dim=(1, 2, 3)).tolist() for number in range(steps + 1)]
    assert sizes == [[max(0, IMAGE_SIZE**2 - 60 * number)] * 12 for number in range(steps + 1)]
    assert all(before[0] > after[0] for before, after in pairwise(sizes))
    with torch.no_grad():
        for number in (0, 7, steps):  # the whole image, one in between, and none of it
            logits = model(images * (output.step > number)).logits
            probability = logits.softmax(dim=1).gather(1, classes[:, None])[:, 0]
            torch.testing.assert_close(output.margins[:, number].sigmoid(), probability)


def test_a_batch_equals_its_members(model, pairs):
    images, classes, output = pairs
    for index in (0, 6, 11):
        single = sufficient_input_subsets(
            model, images[index : index + 1], int(classes[index]), threshold=0.5, pixels_per_step=60
        )
        for name, value in single.items():
            torch.testing.assert_close(value[0], output[name][index])


def test_margin():
    logits = torch.tensor([[2.0, -1.0, 0.5], [90.0, 0.0, -90.0]])
    expected = [-1 - math.log(math.exp(2) + math.exp(0.5)), -90.0]
    assert margin(logits, 1).tolist() == pytest.approx(expected)
    torch.testing.assert_close(margin(logits, torch.tensor([0, 0])).sigmoid(), logits.softmax(dim=1)[:, 0])


def test_ranks_where_the_probability_saturates(pixel_values):
    """Probabilities of 1e-15 and of 1 − 1e-15: the order is that of the same model with logits of ordinary size, though the
    gradient of the probability is lost in rounding."""
    images = pixel_values[:1].float().repeat(2, 1, 1, 1)
    weights = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    orders = []
    for offset in (0.0, 40.0):

        def score(masked, offset=offset):
            logit = (weights * masked).sum(dim=(1, 2, 3)) / 100 + torch.tensor([offset, -offset])
            return margin(torch.stack([logit, torch.zeros(2)], dim=1), 0)

        orders.append(backward_selection(score, images, 100)[0])
    assert torch.equal(*orders)


def test_two_passes_a_step(model, pixel_values):
    """A forward pass, and a backward pass of the same cost, since no weight has a gradient: with them, it would be three."""

    def count(function) -> int:
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    forward = count(lambda: model(pixel_values))
    steps = math.ceil(IMAGE_SIZE**2 / 256)
    selection = count(lambda: sufficient_input_subsets(model, pixel_values, 0, pixels_per_step=256))
    assert 2 * steps * forward < selection < (2.2 * steps + 1) * forward


@pytest.mark.parametrize("family", FAMILIES)
def test_architectures_and_sizes(family):
    tiny = FAMILIES[family].tiny()
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    with torch.inference_mode():
        images = torch.randn(2, 3, 24, 40)  # made in inference mode
        output = sufficient_input_subsets(tiny, images, torch.tensor([0, 2]), pixels_per_step=200)
    assert output.subset.shape == (2, 1, 24, 40) and output.subset.dtype == torch.bool
    assert output.margins.isfinite().all() and not output.margins.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in tiny.parameters())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target": 4}, "Expected `target`"),
        ({"pixel_values": torch.zeros(3, IMAGE_SIZE, IMAGE_SIZE)}, "expected 4"),
        ({"pixel_values": torch.full((3, 3, IMAGE_SIZE, IMAGE_SIZE), math.nan).double()}, "of image 0, 1, 2 of"),
    ],
)
def test_refused(model, pixel_values, change, message):
    arguments = {"pixel_values": pixel_values, "target": 0} | change
    with pytest.raises(ValueError, match=message):
        sufficient_input_subsets(model, **arguments)
    with pytest.raises(ValueError, match="training mode"):
        sufficient_input_subsets(tiny_vit().train(), pixel_values.float(), 0)
