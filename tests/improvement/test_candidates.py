"""Candidates: new last layers, against what they minimise, and the finetuned model."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import load_file

from robust_vit_hf import RobustViTTrainer
from robust_vit_hf.evaluation.other_backgrounds import MOVED, Outputs, composite_outputs
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.hub.model_card import write_card
from robust_vit_hf.improvement import candidates
from robust_vit_hf.improvement.candidates import COMPOSITES_SHARE
from robust_vit_hf.improvement.finetune import Finetuning, learning_rate
from robust_vit_hf.improvement.options import ImproveOptions
from robust_vit_hf.improvement.verdict import write_candidate
from robust_vit_hf.models.interpolation import interpolate
from robust_vit_hf.models.last_layer import LastLayer, NoLastLayer
from robust_vit_hf.models.loading import load_model
from robust_vit_hf.utils.cache import Cache
from robust_vit_hf.utils.files import RUN_FILE, read_json

from ..helpers.sessions import session_of
from ..helpers.tiny import FEATURES, masked_dataset, masked_rows, tiny_config, tiny_vit


CLASSES, SIZE, IMAGES, EACH = 5, 12, 40, 3


def features(seed: int = 0) -> Outputs:
    """Features whose composites have another background, in four directions, and one composite without a donor."""
    rng = np.random.default_rng(seed)
    original = rng.normal(size=(IMAGES, SIZE)) + 1
    background = rng.normal(size=(IMAGES, EACH, 4)) @ rng.normal(size=(4, SIZE))
    mixed = original[:, None] + 2 * background
    mixed[3, 1] = np.nan
    return Outputs(original.astype(np.float32), mixed.astype(np.float32), rng.integers(0, CLASSES, IMAGES))


def layer(seed: int = 1) -> candidates.Layer:
    rng = np.random.default_rng(seed)
    return candidates.Layer(rng.normal(size=(CLASSES, SIZE)), rng.normal(size=CLASSES))


def minimum(parameters, loss):
    """Parameters at the minimum of a loss, by another solver in double precision."""
    solver = torch.optim.LBFGS(parameters, max_iter=2000, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(5):
        solver.step(closure)
    return [parameter.detach().numpy() for parameter in parameters]


def test_the_fit_minimises_its_objective():
    found, own = features(), layer()
    rng = np.random.default_rng(2)
    targets = rng.dirichlet(np.ones(CLASSES), IMAGES)
    new = candidates.fit_layer(own, found, targets, 0.03)
    known = torch.from_numpy(~np.isnan(found.mixed[..., 0]))
    original, mixed, wanted = (torch.from_numpy(v).double() for v in (found.original, found.mixed, targets))
    inputs = torch.cat([original, mixed[known]])
    scale = inputs.square().sum(dim=1).mean()
    first = [torch.from_numpy(values) for values in own]
    weight, bias = (values.clone().requires_grad_() for values in first)

    def loss():
        def entropy(features, wanted):
            return -(wanted * F.log_softmax(features @ weight.T + bias, dim=1)).sum(dim=1).mean()

        of_mixed = entropy(mixed[known], wanted[:, None].expand(-1, EACH, -1)[known])
        value = (1 - COMPOSITES_SHARE) * entropy(original, wanted) + COMPOSITES_SHARE * of_mixed
        change = scale * (weight - first[0]).square().sum() + (bias - first[1]).square().sum()
        return value + 0.03 / 2 * change

    expected = minimum([weight, bias], loss)
    np.testing.assert_allclose(new.weight, expected[0], atol=2e-3)
    np.testing.assert_allclose(new.bias, expected[1], atol=2e-3)


def test_images_with_unusual_backgrounds_have_half_of_the_weight(monkeypatch):
    """Images count with their composites as often as it is said, which is as if they were there several times."""
    found, own, counts = features(), layer(), np.where(np.arange(IMAGES) < 4, 9.0, 1.0)
    targets, rows = np.eye(CLASSES)[found.labels], np.repeat(np.arange(IMAGES), counts.astype(int))
    again = replace(found, original=found.original[rows], mixed=found.mixed[rows], labels=found.labels[rows])
    expected, plain = (
        candidates.fit_layer(own, *of, 0.03).weight for of in ((again, targets[rows]), (found, targets))
    )
    new = candidates.fit_layer(own, found, targets, 0.03, True, counts).weight
    # The scale of the penalty differs a little.
    assert np.abs(new - expected).max() < 0.02 < 0.1 < np.abs(new - plain).max()
    given = []
    monkeypatch.setattr(candidates, "new_layers", lambda *args: given.append(args[-1]) or [])
    last = SimpleNamespace(weight=torch.from_numpy(own.weight), bias=torch.from_numpy(own.bias), has_bias=True)
    for number, weight in ((4, 9.0), (0, 1.0), (30, 1.0)):  # never less than the others
        unusual = np.arange(IMAGES) < number
        composed = replace(found, mixed=np.repeat(found.mixed, 2, axis=1))
        candidates.layer_candidates(None, candidates.Features(last, found, composed, unusual, unusual), {})
        np.testing.assert_array_equal(given.pop(), np.where(unusual, weight, 1.0))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_features_that_are_the_same_for_all_images_teach_how_common_classes_are(value):
    found = Outputs(np.full((4, SIZE), value), np.full((4, 2, SIZE), value), np.array([0, 1, 1, 1]))
    own = layer()
    fitted = candidates.fit_layer(own, found, np.eye(CLASSES)[found.labels], 1e-4)
    probabilities = np.exp(fitted.logits(found.original[0])) / np.exp(fitted.logits(found.original[0])).sum()
    np.testing.assert_allclose(probabilities, [0.25, 0.75, 0, 0, 0], atol=0.02)


def test_fits_leave_classes_without_images_where_they_are():
    """Their rows, and the mean logit of the others on any features; with images of all classes, nothing is held."""
    found, own = features(), layer()
    some = replace(found, labels=np.where(found.labels < 2, found.labels, 3))
    anything = np.random.default_rng(5).normal(size=(50, SIZE))
    for name, new in candidates.new_layers(own, some, has_bias=True):
        moved = new.logits(anything) - own.logits(anything)
        assert np.abs(moved[:, [0, 1, 3]]).max() > 0.01, name
        assert all(np.array_equal(of[[2, 4]], values[[2, 4]]) for of, values in zip(new, own, strict=True))
        np.testing.assert_allclose(moved[:, [0, 1, 3]].mean(axis=1), 0, atol=1e-4)
    of_all = dict(candidates.new_layers(own, found, has_bias=True))["layer fitted to the label, penalty 0.0001"]
    expected = candidates.fit_layer(own, found, np.eye(CLASSES)[found.labels], 1e-4)
    np.testing.assert_array_equal(of_all.weight, expected.weight)
    for name, new in candidates.new_layers(own, found, has_bias=False):  # and learn no bias that a head cannot hold
        assert np.array_equal(new.bias, own.bias) and not np.array_equal(new.weight, own.weight), name


def test_top1_counts_classes_with_images_and_composites_with_a_donor():
    logits = np.array([[3, 2, 1], [1, 3, 2]], np.float32)
    mixed = np.stack([logits, logits[:, [0, 2, 1]], np.full_like(logits, np.nan)], axis=1)
    outputs = Outputs(logits, mixed, np.array([1, 2]))
    assert outputs.right()["original"].tolist() == [0, 0]
    right = replace(outputs, classes=(1, 2)).right()
    assert right["original"].tolist() == [1, 0] and right["mixed_rand"].tolist() == [0.5, 0.5]
    mixed[1] = np.nan
    np.testing.assert_array_equal(outputs.right()["mixed_rand"], [0, np.nan])


def test_probabilities_are_of_the_right_class_at_a_temperature():
    logits = np.array([[0, 2, 9], [4, 0, 9]], np.float32)
    mixed = np.stack([logits, np.full_like(logits, np.nan)], axis=1)
    found = Outputs(logits, mixed, np.array([1, 1]), classes=(0, 1)).probabilities(2.0)
    expected = [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2))]  # of the two classes alone
    np.testing.assert_allclose(found["original"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["mixed_rand"], expected, rtol=1e-6)


def test_composites_with_an_attribute_choose_and_are_no_other_backgrounds():
    """They come after the four composites with other backgrounds."""
    mixed = np.tile(np.array(4 * [[0, 4]] + 4 * [[4, 0]], np.float32), (2, 1, 1))
    found = candidates.measured_outcomes(Outputs(mixed[:, 0], mixed, np.array([1, 1])))
    assert found["other"].tolist() == [1, 1] and found["edited"].tolist() == [0.5, 0.5]
    assert (found["other_probability"] < 0.6).all()


def test_what_a_model_recognises_without_the_object_is_no_gain():
    """Of the first image, also the composite whose object is covered is right; the second has none."""
    mixed = np.tile(np.array([[0, 4]], np.float32), (2, 4, 1))
    covered = np.array([[[0, 4]], [[np.nan] * 2]], np.float32)
    after = candidates.Candidate.of(Outputs(mixed[:, 0], mixed, np.array([1, 1]), covered=covered))
    before = candidates.Candidate.of(Outputs(-mixed[:, 0], -mixed, np.array([1, 1]), covered=-covered))
    assert before.beside(before).other.tolist() == [0, 0] and after.beside(after).other.tolist() == [1, 1]
    assert after.beside(before).other.tolist() == [0, 1]
    first, second = after.beside(before).other_probability
    assert first == pytest.approx(before.other_probability[0]) and second > 0.9
    assert before.beside(after).other.tolist() == [0, 0]  # recognising less without the object is no gain
    # No more than the gain is subtracted, and nothing from a loss.
    gain, loss = (replace(of, other=np.array([0.25, 0.75]), covered=np.full(2, 1.5)) for of in (before, after))
    assert gain.beside(before).top1[1] == 0 and loss.beside(after).other.tolist() == [0.25, 0.75]
    # Attributes have half of these composites.
    half = candidates.Candidate.of(Outputs(mixed[:, 0], np.tile(mixed, (1, 2, 1)), np.array([1, 1]), covered=covered))
    assert half.covered_probability[0] == pytest.approx(after.covered_probability[0] / 2)


def test_the_temperature_is_that_of_the_least_cross_entropy():
    """Of logits that are sure four times as much as they are right, it is about four; composites count by their
    share."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(4000, 4)) * 1.5
    labels = np.array([rng.choice(4, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    sure = Outputs(4 * logits, 4 * logits[:, None], labels)
    assert candidates.temperature_of(sure) == pytest.approx(4, rel=0.1)
    half = Outputs(4 * logits, logits[:, None], labels)
    labels = torch.from_numpy(labels)

    def loss(temperature: float) -> torch.Tensor:
        of_image, of_composite = (torch.from_numpy(times * logits) / temperature for times in (4, 1))
        entropies = [F.cross_entropy(of, labels) for of in (of_image, of_composite)]
        return (1 - COMPOSITES_SHARE) * entropies[0] + COMPOSITES_SHARE * entropies[1]

    assert candidates.temperature_of(half) == pytest.approx(min(np.arange(1, 4, 0.01), key=loss), abs=0.02)


def test_few_training_images_have_more_composites():
    assert [candidates.training_composites(count) for count in (10, 200, 5000)] == [12, 6, 2]


def test_features_go_on_after_the_images_that_are_complete(tmp_path):
    rows = EvaluationSet.of(masked_dataset(8))
    session = session_of({"before": tiny_vit()}, {"noise": rows}, tmp_path, passes=(3, 0))
    given, at_once = (session.sides["before"], session, 2), []
    model = session.sides["before"].model
    model.register_forward_hook(lambda *called: at_once.append(len(called[-1].logits)))
    whole = composite_outputs(*given)
    assert at_once == 6 * [3] + 3 * [2]  # each image, and two composites of it: never more than the batch size
    expected = whole.original.copy(), whole.mixed.copy()
    (file,) = (tmp_path / "cache").glob("*.float32")
    file.with_name(f"{file.name}.partial").write_bytes(file.read_bytes()[: 5 * 3 * 4 * 4])  # five images
    file.unlink()
    at_once.clear()
    again = composite_outputs(*given)
    for found, wanted in zip((again.original, again.mixed), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert at_once == 3 * [3]


def test_images_without_object_or_background_have_no_composites(monkeypatch):
    """As where the object lies outside of what the model sees: it would be the background of another class with this
    label. Nor have those whose mask is in doubt."""
    shapes = {1: np.zeros((40, 52), np.uint8), 2: np.full((40, 52), 255, np.uint8)}
    rows = masked_rows(12)
    for number, shape in shapes.items():
        rows[number]["mask"] = Image.fromarray(shape)
    rows = datasets.Dataset.from_list(rows, features=FEATURES).add_column("doubt", ["arbitrary", *11 * [None]])
    session = session_of({"before": tiny_vit()}, {"noise": EvaluationSet.of(rows)})
    given = "robust_vit_hf.evaluation.other_backgrounds.pool_picture"
    monkeypatch.setattr(given, lambda _, number, row: torch.full((3, 32, 32), number - 1.0))
    for pool in (None, rows):
        mixed = composite_outputs(session.sides["before"], session, 3, pool=pool).mixed
        known = ~np.isnan(mixed).any(axis=2)
        assert not known[:3].any() and known[3:].any(axis=1).all()
    pairs = mixed[3:] - np.roll(mixed[3:], 1, axis=1)  # each composite shows a picture of its own
    assert (np.abs(pairs).max(axis=2) > 1e-3).all()
    pair = session.with_sets({"noise": EvaluationSet.of(masked_dataset(2))})  # each on the background of the other
    moved = composite_outputs(pair.sides["before"], pair, 2, edit=MOVED).mixed
    assert (np.abs(moved[:, 0] - moved[:, 1]).max(axis=1) > 1e-3).all()  # twice, in two places


def test_images_without_any_composite_are_refused():
    """Nothing could be fitted, and all layers would be NaN."""
    rows = masked_dataset(8).map(lambda row: {"mask": Image.fromarray(np.full((40, 52), 255, np.uint8))})
    session = session_of({"before": tiny_vit()}, {"train": EvaluationSet.of(rows)})
    with pytest.raises(ValueError, match="No object of the 8 train images"):
        composite_outputs(session.sides["before"], session, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_temperature_divides_the_whole_layer(dtype, tmp_path, monkeypatch):
    """Which is written in fp32, also of a model in half precision."""
    model, folder = tiny_vit().to(dtype), tmp_path / "model"
    torch.nn.init.normal_(model.classifier.bias)
    session = session_of({"before": model}, {"noise": EvaluationSet.of(masked_dataset(16))})
    features = candidates.compute_features(session, session)._replace(train_unusual=np.zeros(16, bool))
    before, chosen, *_ = candidates.layer_candidates(session.sides["before"], features, {"folder": folder})
    _, made = next(candidates.new_layers(features.layer, features.train, features.last.has_bias))
    expected = features.layer.interpolated(made, chosen.weight)
    temperature = candidates.temperature_of(features.validation.mapped(expected.logits))
    assert abs(temperature - 1) > 0.1

    def no_layer(*_):
        raise NoLastLayer("none")

    # None is fitted on validation images that the original all predicts right, nor where no layer could take it.
    right = replace(before, usual=np.ones(16))
    for given, last_layer, scale in ((before, LastLayer, temperature), (right, LastLayer, 1), (before, no_layer, 1)):
        monkeypatch.setattr("robust_vit_hf.improvement.verdict.LastLayer", last_layer)
        write_candidate(chosen, given, session, folder)
        written = load_file(folder / "model.safetensors")
        np.testing.assert_allclose(scale * written["classifier.weight"], expected.weight, rtol=1e-4)
        np.testing.assert_allclose(scale * written["classifier.bias"], expected.bias, rtol=1e-4)
        told = read_json(folder / RUN_FILE)["training"]["temperature, fitted on the validation images"]
        assert told == f"{scale:.2f}"


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_finetuned_candidate_is_as_sure_as_it_is_right(weight, tmp_path, monkeypatch):
    """The temperature of its logits on the validation images divides the last layer; all other weights are the
    interpolated ones. Its card says so, with the paper of the interpolation."""
    first, second, folder = tiny_vit(), tiny_vit(seed=1), tmp_path / "model"
    session = session_of({"before": first}, {"noise": EvaluationSet.of(masked_dataset(16))}, folder)
    options = SimpleNamespace(output_dir=folder, learning_rate=1e-3, max_steps=2)
    outputs_of = partial(composite_outputs, session=session, count=candidates.VALIDATION_COMPOSITES, edit=MOVED)
    finetuning = Finetuning(None, session.sides["before"], None, outputs_of, options, {})
    config = tiny_config(tmp_path / "trained", method="swap")
    RobustViTTrainer(second, config, masked_dataset(8)).create_model_card(finetuned_from="mine")  # not trained
    second.save_pretrained(tmp_path / "trained")
    monkeypatch.setattr(Finetuning, "trained", lambda *_: tmp_path / "trained")
    side = replace(session.sides["before"], model=interpolate(first, second, weight))
    temperature = candidates.temperature_of(outputs_of(side))
    assert abs(temperature - 1) > 0.1 and temperature == candidates.temperature_of(finetuning.outputs(weight))
    made = {"outputs": partial(finetuning.outputs, weight), "build": partial(finetuning.build, weight)}
    chosen, before = (candidates.Candidate(*4 * [np.zeros(16)], **of) for of in (made, {}))
    write_candidate(chosen, before, session, folder)
    written = load_model(str(folder)).state_dict()
    for name, values in side.model.state_dict().items():
        scale = temperature if name.startswith("classifier") else 1
        np.testing.assert_allclose(scale * written[name], values, rtol=1e-4, atol=1e-7)
    assert read_json(folder / "interpolation.json")["interpolation_weight"] == weight
    write_card(folder)
    card = (folder / "README.md").read_text()
    assert "`mine`, finetuned on images with swapped backgrounds" in " ".join(card.split())
    assert ("WiSE-FT" in card) is (weight < 1) and "relevance loss" not in card
    assert f"| interpolation weight of the finetuned weights | {weight:g} |" in card


def test_a_training_begins_with_the_given_model(tmp_path):
    first, second = tiny_vit(), tiny_vit(seed=1)
    side = session_of({"before": first}, {}).sides["before"]
    options = ImproveOptions(model="a", dataset="b", output_dir=tmp_path / "c", learning_rate=1e-12, max_steps=1)
    given = candidates.Candidate(*4 * [np.zeros(16)], build=lambda: (second, {}))
    for start, name in ((None, "finetuned by swap,"), (given, "finetuned by swap from the new layer,")):
        training = Finetuning(Cache(tmp_path), side, masked_dataset(16), None, options, {}, start=start)
        assert str(training).startswith(name)
        trained = load_model(str(training.trained())).state_dict()
        expected = (second if start else first).state_dict()
        assert all(torch.allclose(trained[of], values, atol=1e-9) for of, values in expected.items())


def test_the_learning_rate_goes_with_the_size_of_the_weights():
    """The median over the weight matrices of their root mean square; biases and norms do not count."""
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.Conv2d(2, 2, 3), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)
    )
    for module, size in zip((model[0], model[1], model[3]), (0.01, 0.02, 5.0), strict=True):
        torch.nn.init.constant_(module.weight, size)
        torch.nn.init.constant_(module.bias, 100.0)
    assert learning_rate(model) == pytest.approx(0.0015 * 0.02)
