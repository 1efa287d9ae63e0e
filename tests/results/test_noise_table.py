"""Relative foreground sensitivity: noise on the object and on the background."""

import numpy as np
import pytest
import torch

from robust_vit_hf.evaluation.noise_sensitivity import Sensitivity
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.results.set_tables import relative_foreground_sensitivity, sensitivity_table

from ..helpers.sessions import session_of
from ..helpers.tiny import masked_dataset, tiny_vit


def test_relative_foreground_sensitivity():
    """The examples of the definition: the sign, the largest value that a mean allows, and no room."""
    foreground, background = np.array([0.2, 0.6, 0.0, 1.0, 0.5]), np.array([0.6, 0.2, 0.4, 1.0, 0.5])
    expected = [0.4 / 0.8, -0.4 / 0.8, 1.0, 0.0, 0.0]
    assert relative_foreground_sensitivity(foreground, background) == pytest.approx(expected)


def test_noise_is_where_it_should_be():
    """With noise on one region, the other has its own pixels; the noise of an image depends on its number and the draw alone."""
    rows, seen, noisy = EvaluationSet.of(masked_dataset(4)), [], []
    model = tiny_vit()
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    session = session_of({"before": model}, {"noise": rows})
    batches = rows.transform(session.sides["before"].processor)(rows.dataset[:])
    clean, masks = (torch.stack(batches[name]) for name in ("pixel_values", "mask"))
    for batch_size in (4, 1):
        seen.clear()
        found = Sensitivity(batch_size, draws=2).measure(
            session.sides["before"], session.sets["noise"], session, "noise", None
        )
        noisy.append([torch.cat(seen[place::4]) for place in range(4)])
    on_object, on_background, *second = noisy[0]
    assert torch.equal(on_object.where(masks == 0, 0), clean.where(masks == 0, 0))
    assert torch.equal(on_background.where(masks == 1, 0), clean.where(masks == 1, 0))
    noise, free = on_object - clean, (masks == 1).expand_as(clean) & (on_object.abs() < 1)
    middle = noise[free & (clean.abs() < 0.3)]  # of which little is clamped
    assert 0.38 < middle.std() < 0.5 and on_object.abs().max() <= 1  # 0.25 of a range of 2
    assert not torch.allclose(noise[0][free[0] & free[1]], noise[1][free[0] & free[1]], atol=1e-6)
    assert all(map(torch.equal, noisy[0], noisy[1])) and not torch.equal(on_object, second[0])
    with torch.no_grad():
        predicted = [model(pixel_values=images).logits.argmax(1) for images in noisy[0]]
    assert found.columns["foreground"].tolist() == torch.stack(predicted[::2], 1).tolist()
    assert found.columns["background"].tolist() == torch.stack(predicted[1::2], 1).tolist()


def test_the_table_of_the_sensitivity():
    # Two draws: noise on the object breaks all of class 0, and that on the background class 1 under one of them.
    accepted = [[0]] * 100 + [[1]] * 100
    foreground, background = [[5, 5]] * 100 + [[1, 1]] * 100, [[0, 0]] * 100 + [[1, 5]] * 100
    share = [0.5] * 200
    columns = {"accepted": accepted, "foreground": foreground, "background": background, "object_share": share}
    swapped = columns | {"foreground": background, "background": foreground}
    table = sensitivity_table({"photos": {"before": columns, "after": swapped}})
    (row,) = table.rows
    assert len(row) == len(table.head) and row[:6] == ["photos", "200", "50.0", "75.0", "75.0", "50.0"]
    assert [cell.split(" ")[0] for cell in row[6:]] == ["33.3", "-33.3", "-66.7"]  # 0.25 / (2 · 0.375)
    columns = {name: [*values, values[0]] for name, values in columns.items()} | {"object_share": [*share, 1.0]}
    (row,) = sensitivity_table({"photos": {"before": columns}}).rows  # the last object fills the crop
    assert row[:4] == ["photos", "200", "50.0", "75.0"] and len(row) == 5
    none = columns | {"object_share": [0.0] * 201}
    compared = {"none": {"before": none, "after": none}, "photos": {"before": columns, "after": columns}}
    table = sensitivity_table(compared)
    assert table.rows[0] == ["none", "0", *"–––––––"] and [len(row) for row in table.rows] == [len(table.head)] * 2
    assert sensitivity_table({"none": {"before": none}}).rows == [["none", "0", "–", "–", "–"]]
