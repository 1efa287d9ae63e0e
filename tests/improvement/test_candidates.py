"""Candidates: the rule that chooses, the trainings that it asks for, and new last layers, against what they minimise."""

import io
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

from robust_vit_hf.evaluation.other_backgrounds import OUTPUTS_FILE, Outputs, composite_outputs
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.improvement import candidates
from robust_vit_hf.improvement.candidates import COMPOSITES_SHARE, Candidate
from robust_vit_hf.improvement.options import ImproveOptions
from robust_vit_hf.improvement.trainings import (
    TRAINING_FOLDER,
    VARIANTS,
    Training,
    Trainings,
    finalists,
    first_trainings,
)
from robust_vit_hf.improvement.verdict import write_candidate
from robust_vit_hf.models.interpolation import interpolate
from robust_vit_hf.utils.files import RUN_FILE, read_json, write_json

from ..helpers.sessions import session_of
from ..helpers.tiny import FEATURES, masked_dataset, masked_rows, tiny_vit


def measured(top1: float, home: float, rate: float = 1e-5, weight: float = 1.0, count: int = 100) -> Candidate:
    """Right on shares of the images."""
    mixed_rand, original = ((np.arange(count) < round(count * share)).astype(float) for share in (top1, home))
    return Candidate(mixed_rand, original, "swap", weight, rate)


def trained(top1: float, variant: str = "swap", rate: float = 1e-5, steps: int = 80) -> dict[Candidate, Training]:
    return {measured(top1, 0.95, rate): Training(variant, rate, steps)}


BEFORE = replace(measured(0.3, 0.95, 0.0, 0.0), name="original")


def test_the_highest_within_the_bound_is_first():
    best, costly = measured(0.6, 0.94), measured(0.9, 0.9)
    assert candidates.rank([BEFORE, costly, measured(0.5, 0.95), best], BEFORE, max_loss=1.0)[0] is best
    assert candidates.rank([BEFORE, costly, best], BEFORE, max_loss=5.0)[0] is costly
    assert candidates.rank([BEFORE, costly, best], BEFORE, max_loss=0.0)[0] is BEFORE
    assert candidates.rank([measured(0.3, 0.95), measured(0.2, 0.95), BEFORE], BEFORE, 1.0)[0] is BEFORE
    assert candidates.rank([measured(0.9, 0.5), BEFORE], BEFORE, 1.0)[0] is BEFORE


def test_the_bound_is_rounded_up_to_whole_images():
    """Of 20 images, one is 5 points."""
    before = measured(0.3, 0.95, 0.0, 0.0, count=20)
    one, two = (measured(0.6, home, count=20) for home in (0.9, 0.85))
    assert candidates.rank([before, one], before, max_loss=1.0)[0] is one
    assert candidates.rank([before, two], before, max_loss=1.0)[0] is before
    assert candidates.rank([before, one], before, max_loss=0.0)[0] is before
    assert [candidates.may_be_lost(BEFORE, float(points)) for points in range(100)] == [
        (points, 100) for points in range(100)
    ]


def test_equals_are_ordered_by_fall_rate_and_weight():
    """New layers, of which nothing was trained, come first."""
    settings = [(0.95, 1e-5, 1.0), (0.95, 3e-6, 1.0), (0.94, 1e-6, 1.0), (0.95, 3e-6, 0.5), (0.95, 0.0, 1.0)]
    order = candidates.rank([measured(0.6, *setting) for setting in settings], BEFORE, max_loss=1.0)
    expected = [(0.0, 1.0), (3e-6, 0.5), (3e-6, 1.0), (1e-5, 1.0), (1e-6, 1.0)]
    assert [(candidate.learning_rate, candidate.weight) for candidate in order] == expected


def test_settings_of_a_sweep_are_ordered_by_their_own_strength():
    class Setting(Candidate):
        strength = property(lambda setting: (-setting.learning_rate,))

    settings = [Setting(BEFORE.mixed_rand, BEFORE.original, learning_rate=rate) for rate in (1e-6, 1e-5)]
    assert candidates.rank(settings, BEFORE, max_loss=1.0) == settings[::-1]


def test_among_those_within_one_standard_error_the_mildest_is_chosen():
    """Of 100 images, one fewer is within it, and ten fewer are not."""
    best, as_good, worse = measured(0.6, 0.94), measured(0.59, 0.97), measured(0.5, 0.99)
    assert candidates.choose([BEFORE, best, as_good, worse], BEFORE, max_loss=1.0) is as_good
    assert candidates.choose([BEFORE, best, worse], BEFORE, max_loss=1.0) is best
    costly = measured(0.9, 0.8)
    assert candidates.choose([BEFORE, costly, worse], BEFORE, max_loss=1.0) is worse
    assert candidates.choose([BEFORE], BEFORE, max_loss=1.0) is BEFORE
    # Of two images, one is a standard error of the sample, which is larger than that of all by the root of two.
    before, best, milder = (measured(*of, count=2) for of in ((0.0, 1.0), (1.0, 0.5), (0.5, 1.0)))
    assert candidates.choose([before, best, milder], before, max_loss=1.0) is milder


def test_images_that_do_not_count_are_left_out():
    whole = measured(0.5, 0.95)
    right = np.where(np.arange(100) < 50, whole.mixed_rand, np.nan)  # without all that were wrong
    assert replace(whole, mixed_rand=right).top1() == 1.0


def test_first_trainings_are_swap_at_each_rate_from_each_start():
    first = first_trainings(None, [3e-6, 1e-5], max_steps=240, starts=["original", "layer"])
    assert [(training.start, training.learning_rate, training.steps) for training in first] == [
        (start, rate, 80) for start in ("original", "layer") for rate in (3e-6, 1e-5)
    ]
    assert {(training.variant, training.options["method"]) for training in first} == {("swap", "swap")}
    (named,) = first_trainings("gradmask", [1e-6], max_steps=1)
    assert named.options == {"method": "gradmask"} and named.steps == 1
    assert len({training.name for training in first}) == len(first)


def test_a_training_is_chosen_if_it_is_better_than_a_new_layer_without_doubt():
    layer, better, little = measured(0.6, 0.95, rate=0.0), measured(0.7, 0.95), measured(0.62, 0.95)
    assert candidates.choose_cheapest([BEFORE, layer, little], BEFORE, 1.0) is layer  # two images of 100
    assert candidates.choose_cheapest([BEFORE, layer, better], BEFORE, 1.0) is better
    costly = measured(0.6, 0.9, rate=0.0)
    assert candidates.choose_cheapest([BEFORE, costly, little], BEFORE, 1.0) is little


def test_finalists_are_the_best_settings_without_and_with_the_relevance_loss():
    better, worse = trained(0.8, rate=1e-5), trained(0.7, rate=3e-6)
    without, with_map = finalists(worse | better, BEFORE, 1.0, 240)
    (best,) = better.values()
    assert without == replace(best, steps=240)
    assert with_map == replace(without, variant="swap and relevance", options=VARIANTS["swap and relevance"])
    assert finalists({}, BEFORE, 1.0, 240) == []
    # The first trainings were of all steps.
    assert [training.variant for training in finalists(better, BEFORE, 1.0, 80)] == ["swap and relevance"]


@pytest.mark.parametrize("variant, has_map", [("swap", False), ("gradmask", True)])
def test_finalists_without_the_relevance_loss_are_the_two_best(variant, has_map):
    rates = {3e-6: 0.7, 1e-5: 0.8, 3e-5: 0.6}
    first = {candidate: of for rate, right in rates.items() for candidate, of in trained(right, variant, rate).items()}
    last = finalists(first, BEFORE, 1.0, 240, has_map)
    assert last == [Training(variant, 1e-5, 240), Training(variant, 3e-6, 240)]
    assert sum(training.steps for training in (*first.values(), *last)) <= 4 * 240  # what all together cost
    assert finalists(first, BEFORE, 1.0, 80, has_map) == []


def test_each_learning_rate_has_a_name_of_its_own():
    first, other, usual = (Training("swap", rate, 80) for rate in (1.2345678e-5, 1.2345679e-5, 1e-5))
    assert first.name != other.name and str(first) != str(other)
    assert usual.name == "swap-from-original-1e-05-80"
    with pytest.raises(ValueError, match="`learning_rates` not to be empty"):
        ImproveOptions(model="m", dataset="d", output_dir="o", learning_rates=[])


def test_the_table_shows_every_candidate_with_its_intervals():
    chosen, costly = measured(0.6, 0.95), measured(0.9, 0.5, rate=3e-5)
    table = candidates.candidates_table([BEFORE, costly, chosen], BEFORE, chosen, max_loss=1.0)
    assert [row[:2] + row[-1:] for row in table.rows] == [
        ["swap", "1", "chosen"], ["original", "–", ""], ["swap", "1", "loses too much"],
    ]  # fmt: skip
    assert table.rows[0][2] == "60.0" and table.rows[0][3].startswith("+30.0 [+2")
    assert table.rows[2][4].startswith("-45.0 [")


def test_changes_are_paired_by_image():
    gain, home = measured(0.35, 0.95).changes(BEFORE)
    assert gain.mean == pytest.approx(0.05) and gain.low > 0.005
    assert home.mean == 0 and home.high == pytest.approx(0.03)  # agreement of 100 images


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


@pytest.mark.parametrize("centred", [True, False])
def test_the_map_minimises_its_objective(centred):
    found, own = features(), layer()
    known = torch.from_numpy(~np.isnan(found.mixed[..., 0]))
    original, mixed = (torch.from_numpy(values).double() for values in (found.original, found.mixed))
    mean = original.mean(dim=0) * centred
    pairs = (mixed - mean)[known], (original - mean)[:, None].expand_as(mixed)[known]
    scale = pairs[0].square().mean()
    matrix = torch.eye(SIZE, dtype=torch.float64).requires_grad_()
    identity = torch.eye(SIZE, dtype=torch.float64)

    def loss():
        distance = (pairs[0] @ matrix.T - pairs[1]).square().sum(dim=1).mean()
        return distance + 0.7 * scale * (matrix - identity).square().sum()

    (expected,) = minimum([matrix], loss)
    new = candidates.map_out_background(own, found, 0.7, centred)
    np.testing.assert_allclose(new.weight, own.weight @ expected, atol=1e-4)
    mean = mean.numpy()
    np.testing.assert_allclose(new.bias, own.bias + own.weight @ (mean - expected @ mean), atol=1e-4)
    assert centred or np.array_equal(new.bias, own.bias)


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

        mixed_targets = wanted[:, None].expand(-1, EACH, -1)[known]
        value = (1 - COMPOSITES_SHARE) * entropy(original, wanted) + COMPOSITES_SHARE * entropy(
            mixed[known], mixed_targets
        )
        change = scale * (weight - first[0]).square().sum() + (bias - first[1]).square().sum()
        return value + 0.03 / 2 * change

    expected = minimum([weight, bias], loss)
    np.testing.assert_allclose(new.weight, expected[0], atol=2e-3)
    np.testing.assert_allclose(new.bias, expected[1], atol=2e-3)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_features_that_are_the_same_for_all_images_leave_the_layer(value):
    found = Outputs(np.full((4, SIZE), value), np.full((4, 2, SIZE), value), np.array([0, 1, 1, 1]))
    own = layer()
    new = candidates.map_out_background(own, found, 1.0, centred=value != 0)
    np.testing.assert_allclose(new.weight, own.weight)
    np.testing.assert_allclose(new.bias, own.bias)
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
        if name.startswith("layer fitted"):
            assert np.array_equal(new.weight[[2, 4]], own.weight[[2, 4]]) and np.array_equal(
                new.bias[[2, 4]], own.bias[[2, 4]]
            )
            np.testing.assert_allclose(moved[:, [0, 1, 3]].mean(axis=1), 0, atol=1e-4)
    of_all = dict(candidates.new_layers(own, found, has_bias=True))["layer fitted to the label, penalty 0.0001"]
    expected = candidates.fit_layer(own, found, np.eye(CLASSES)[found.labels], 1e-4)
    np.testing.assert_array_equal(of_all.weight, expected.weight)


def test_top1_counts_among_the_classes_with_images():
    logits = np.array([[3, 2, 1], [1, 3, 2]], np.float32)
    outputs = Outputs(logits, logits[:, None], np.array([1, 2]))
    assert outputs.right()["original"].tolist() == [0, 0]
    right = replace(outputs, classes=(1, 2)).right()
    assert right["original"].tolist() == [1, 0] and right["mixed_rand"].tolist() == [1, 0]


def test_outcomes_count_composites_with_a_donor():
    original = np.array([[0, 1], [1, 0]], np.float32)
    mixed = np.array([[[0, 1], [1, 0], [np.nan] * 2], [[np.nan] * 2] * 3], np.float32)
    right = Outputs(original, mixed, np.array([1, 1])).right()
    assert right["original"].tolist() == [1, 0]
    np.testing.assert_array_equal(right["mixed_rand"], [0.5, np.nan])
    flipped = Outputs(original, mixed, np.array([1, 1])).mapped(lambda outputs: outputs[..., ::-1]).right()
    assert flipped["original"].tolist() == [0, 1] and flipped["mixed_rand"][0] == 0.5


def test_the_temperature_is_that_of_the_least_cross_entropy():
    """Of logits that are sure four times as much as they are right, it is about four; composites count by their share."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(4000, 4)) * 1.5
    labels = np.array([rng.choice(4, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    sure = Outputs(4 * logits, 4 * logits[:, None], labels)
    assert candidates.temperature_of(sure) == pytest.approx(4, rel=0.1)
    half = Outputs(4 * logits, logits[:, None], labels)
    labels = torch.from_numpy(labels)

    def loss(temperature: float) -> torch.Tensor:
        of_image, of_composite = (torch.from_numpy(times * logits) / temperature for times in (4, 1))
        return (1 - COMPOSITES_SHARE) * F.cross_entropy(of_image, labels) + COMPOSITES_SHARE * F.cross_entropy(
            of_composite, labels
        )

    assert candidates.temperature_of(half) == pytest.approx(min(np.arange(1, 4, 0.01), key=loss), abs=0.02)


def test_few_training_images_have_more_composites():
    assert [candidates.training_composites(count) for count in (10, 200, 5000)] == [12, 6, 2]


def test_features_go_on_after_the_images_that_are_complete(tmp_path):
    rows = EvaluationSet.of(masked_dataset(8))
    session = session_of({"before": tiny_vit()}, {"noise": rows}, passes=(3, 0))
    given, at_once = (session.sides["before"], session, 2, None, tmp_path), []
    model = session.sides["before"].model
    model.register_forward_hook(lambda *called: at_once.append(len(called[-1].logits)))
    whole = composite_outputs(*given)
    assert at_once == 6 * [3] + 3 * [2]  # each image, and two composites of it: never more than the batch size
    expected = whole.original.copy(), whole.mixed.copy()
    values = np.load(tmp_path / OUTPUTS_FILE, "r+")
    values[5:] = np.nan
    values.flush()
    again = composite_outputs(*given)
    for found, wanted in zip((again.original, again.mixed), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_images_without_object_or_background_have_no_composites():
    """As where the object lies outside of what the model sees: it would be the background of another class with this label."""
    shapes = {1: np.zeros((40, 52), np.uint8), 2: np.full((40, 52), 255, np.uint8)}
    rows = [
        row | {"mask": Image.fromarray(shapes[number]) if number in shapes else row["mask"]}
        for number, row in enumerate(masked_rows(12))
    ]
    rows = EvaluationSet.of(datasets.Dataset.from_list(rows, features=FEATURES))
    session = session_of({"before": tiny_vit()}, {"noise": rows})
    for picture_of in (None, lambda *_: torch.zeros(3, 32, 32)):
        mixed = composite_outputs(session.sides["before"], session, 3, picture_of=picture_of).mixed
        known = ~np.isnan(mixed).any(axis=2)
        assert not known[1:3].any() and known[3:].any(axis=1).all()


def test_a_file_of_features_that_was_cut_off_is_none(tmp_path, monkeypatch):
    """As by a full disk: numpy would fill it with zeros, which count as complete."""
    rows = EvaluationSet.of(masked_dataset(8))
    session = session_of({"before": tiny_vit()}, {"noise": rows}, passes=(3, 0))
    given = session.sides["before"], session, 2
    expected = composite_outputs(*given)

    def cut_off(file, values):
        whole = io.BytesIO()
        np.lib.format.write_array(whole, values)
        file.write(whole.getvalue()[:300]) if hasattr(file, "write") else file.write_bytes(whole.getvalue()[:300])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("robust_vit_hf.evaluation.other_backgrounds.np.save", cut_off)
        composite_outputs(*given, None, tmp_path)
    again = composite_outputs(*given, None, tmp_path)
    np.testing.assert_allclose(again.original, expected.original, atol=1e-5)
    np.testing.assert_allclose(again.mixed, expected.mixed, atol=1e-5)


def test_images_without_any_composite_are_refused():
    """Nothing could be fitted, and all layers would be NaN."""
    rows = masked_dataset(8).map(lambda row: {"mask": Image.fromarray(np.full((40, 52), 255, np.uint8))})
    session = session_of({"before": tiny_vit()}, {"train": EvaluationSet.of(rows)})
    with pytest.raises(ValueError, match="No object of the 8 train images"):
        composite_outputs(session.sides["before"], session, 2)


def test_the_temperature_divides_the_whole_layer(tmp_path):
    model, folder = tiny_vit(), tmp_path / "model"
    torch.nn.init.normal_(model.classifier.bias)
    session = session_of({"before": model}, {"noise": EvaluationSet.of(masked_dataset(16))})
    features = candidates.compute_features(session, session, tmp_path / "features")
    before, chosen, *_ = candidates.layer_candidates(session.sides["before"], features, {"folder": folder})
    _, made = next(candidates.new_layers(features.layer, features.train, features.last.has_bias))
    expected = features.layer.interpolated(made, chosen.weight)
    temperature = candidates.temperature_of(features.selection.mapped(expected.logits))
    assert abs(temperature - 1) > 0.1
    # No temperature is fitted on selection images that the original all predicts right, nor where no layer could take it.
    right = replace(before, original=np.ones(16))
    for given, has_layer, scale in ((before, True, temperature), (right, True, 1), (before, False, 1)):
        write_candidate(chosen, given, replace(session, folder=folder), is_written=False, has_layer=has_layer)
        written = load_file(folder / "model.safetensors")
        np.testing.assert_allclose(scale * written["classifier.weight"], expected.weight, rtol=1e-4)
        np.testing.assert_allclose(scale * written["classifier.bias"], expected.bias, rtol=1e-4)
        told = read_json(folder / RUN_FILE)["training"]["temperature, fitted on the selection images"]
        assert told == f"{scale:.2f}"


def test_a_finetuned_candidate_is_as_sure_as_it_is_right(tmp_path, monkeypatch):
    """The temperature of its logits on the selection images divides the last layer; all other weights are the interpolated ones."""
    first, second = tiny_vit(), tiny_vit(seed=1)
    session = session_of({"before": first}, {"noise": EvaluationSet.of(masked_dataset(16))})
    training, options = Training("swap", 1e-3, 2), SimpleNamespace(output_dir=tmp_path / "model")
    outputs_of = partial(composite_outputs, session=session, count=candidates.SELECTION_COMPOSITES)
    trainings = Trainings(tmp_path, {"original": session.sides["before"]}, None, outputs_of, options, {}, {})
    monkeypatch.setattr(Trainings, "trained", lambda *_: second)
    write_json(tmp_path / training.name / TRAINING_FOLDER / RUN_FILE, {"training": {}})
    side = replace(session.sides["before"], model=interpolate(first, second, 0.5))
    temperature = candidates.temperature_of(outputs_of(side))
    assert abs(temperature - 1) > 0.1 and temperature == candidates.temperature_of(trainings.outputs(training, 0.5))
    model, _ = trainings.build(training, 0.5, temperature)
    written = model.state_dict()
    for name, values in side.model.state_dict().items():
        scale = temperature if name.startswith("classifier") else 1
        np.testing.assert_allclose(scale * written[name], values, rtol=1e-4, atol=1e-7)
