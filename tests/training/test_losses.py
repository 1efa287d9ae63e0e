"""Losses: literal values, an independent reference, and edges."""

import pytest
import torch

from robust_vit_hf import ConfidenceLoss, RelevanceLoss


RELEVANCE = torch.tensor([[[[1.0, 0.5], [0.0, 0.5]]]])
MASK = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])


@pytest.mark.parametrize("distance", ["mse", "bce"])
def test_a_map_of_a_diverged_model_gives_no_number(distance):
    """And no error, in place of which the training would say that it diverged."""
    broken = torch.stack([RELEVANCE[0], torch.full_like(RELEVANCE[0], torch.nan)])
    found = RelevanceLoss(distance=distance).per_image(broken, MASK[:1].expand(2, -1, -1, -1))["relevance_loss"]
    alone = RelevanceLoss(distance=distance).per_image(RELEVANCE[:1], MASK[:1])["relevance_loss"]
    assert found[0] == alone[0] and found[1].isnan()


@pytest.mark.parametrize("mask_edges, background", [("fractional", 0.25), ("complement", 0.75)])
def test_fractional_mask_values(mask_edges, background):
    ones, quarter = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.25)
    losses = RelevanceLoss(mask_edges=mask_edges)(ones, quarter)
    assert losses["background_loss"].item() == background**2
    assert losses["foreground_loss"].item() == 0


def test_confidence():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    # −log softmax of the larger logit: log(1 + e^−2) and log(1 + e^−1)
    expected = torch.log1p(torch.exp(-torch.tensor([2.0, 1.0])))
    torch.testing.assert_close(ConfidenceLoss().per_image(logits)["confidence_loss"], expected)
    torch.testing.assert_close(ConfidenceLoss()(logits)["confidence_loss"], expected.mean())
    expected = torch.log1p(torch.exp(-torch.tensor([4.0, 2.0])))
    torch.testing.assert_close(ConfidenceLoss(temperature=0.5).per_image(logits)["confidence_loss"], expected)
    # With labels it is ordinary cross-entropy.
    labels = torch.tensor([1, 1])
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(ConfidenceLoss()(logits, labels)["confidence_loss"], expected)


@pytest.mark.parametrize("arguments", [{"distance": "l1"}, {"mask_edges": "soft"}, {"mean_over": "pixels"}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="Expected one of"):
        RelevanceLoss(**arguments)
    with pytest.raises(ValueError, match="of one shape"):
        RelevanceLoss()(RELEVANCE, MASK[0])


def test_a_region_without_pixels_loses_nothing():
    losses = RelevanceLoss(mean_over="region").per_image(RELEVANCE, torch.zeros_like(MASK))
    assert losses["foreground_loss"].tolist() == [0] and losses["background_loss"].isfinite().all()


def test_the_temperature_divides_the_logits_of_both_models():
    """Kullback–Leibler divergence of the output from that of another model, by hand."""
    logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 3.0, 1.0]])
    own, others = (values.div(0.5).softmax(dim=1) for values in (logits, target))
    expected = (others * (others.log() - own.log())).sum(dim=1)
    torch.testing.assert_close(ConfidenceLoss(0.5).per_image(logits, target)["confidence_loss"], expected)
