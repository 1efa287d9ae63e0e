"""Several threads at once on one model: each gets what it would get alone, and the model stays as it was."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest
import torch
from transformers import masking_utils, pipeline

from robust_vit_hf import relevance_map
from robust_vit_hf.relevance.attention import EXPLICIT_ATTENTION, LINEAR_MEMORY_ATTENTION
from robust_vit_hf.relevance.hooks import hooks_of_this_thread

from ..helpers.architectures import FAMILIES
from ..helpers.tiny import images, masked_rows, tiny_vit


@pytest.fixture(autouse=True)
def eager_switches():
    """The interpreter changes the thread as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def at_once(*calls: Callable, rounds: int = 5) -> list[list]:
    """Results of each call in its own thread, of all rounds. Each round starts together."""
    barrier = Barrier(len(calls))

    def repeat(call: Callable) -> list:
        results = []
        for _ in range(rounds):
            barrier.wait(60)
            try:
                results.append(call())
            except Exception:
                barrier.abort()
                raise
        return results

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(repeat, call) for call in calls]
    for error in [future.exception() for future in futures]:
        if error is not None and not isinstance(error, BrokenBarrierError):  # which others met since this one broke it
            raise error
    return [future.result() for future in futures]


def assert_as_alone(*calls: Callable, **options) -> None:
    alone = [call() for call in calls]
    for results, expected in zip(at_once(*calls, **options), alone, strict=True):
        for result in results:
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def mapped(method: Callable, *arguments) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        output = method(*arguments)
    return output.relevance, output.logits


def plain(model: torch.nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values).logits


def assert_unchanged(model: torch.nn.Module, implementation: str) -> None:
    assert model.config._attn_implementation == implementation
    for module in model.modules():  # for `output_attentions=True`, transformers adds hooks that stay
        assert {hook.__name__ for hook in module._forward_hooks.values()} <= {"output_capturing_hook"}
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_four_maps_of_one_model(family):
    model = family.tiny()
    implementation = model.config._attn_implementation
    assert_as_alone(
        *(lambda thread=thread: mapped(relevance_map, model, images(seed=thread), thread) for thread in range(3)),
        lambda: mapped(relevance_map, model, images(seed=3), torch.tensor([3, 0])),
        rounds=3,
    )
    assert_unchanged(model, implementation)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_plain_passes_beside_maps(implementation):
    model = tiny_vit()
    model.set_attn_implementation(implementation)
    assert_as_alone(
        lambda: mapped(relevance_map, model, images(), 1),
        lambda: mapped(relevance_map, model, images(3, seed=1)),
        lambda: plain(model, images(seed=2)),
        lambda: plain(model, images(5, seed=3)),
        rounds=20,
    )
    assert_unchanged(model, implementation)


def test_a_pass_that_began_before_a_switch_finds_its_mask(monkeypatch):
    """transformers reads the name of the attention twice: here, a map of another thread begins in between."""
    model = tiny_vit()
    expected, prepare = plain(model, images()), masking_utils._preprocess_mask_arguments

    def switched(config, *arguments):
        prepared = prepare(config, *arguments)
        config._attn_implementation = implementation
        return prepared

    monkeypatch.setattr(masking_utils, "_preprocess_mask_arguments", switched)
    for implementation in (EXPLICIT_ATTENTION, LINEAR_MEMORY_ATTENTION):
        model.config._attn_implementation = "sdpa"
        torch.testing.assert_close(plain(model, images()), expected)
        assert model.config._attn_implementation == implementation


def test_an_error_in_one_thread_leaves_the_others_alone():
    model = tiny_vit()

    def refused() -> torch.Tensor:
        with pytest.raises(ValueError, match="Expected `target`"):
            relevance_map(model, images(), 4)
        return torch.zeros(())

    def fail(module, args, output):
        raise RuntimeError("in the last layer")

    def broken() -> torch.Tensor:
        with hooks_of_this_thread((model.vit.layers[1].register_forward_hook, fail)):
            with pytest.raises(RuntimeError, match="in the last layer"):
                relevance_map(model, images(), 1)
        return torch.zeros(())

    assert_as_alone(
        refused, broken, lambda: mapped(relevance_map, model, images(seed=1), 1), lambda: plain(model, images(seed=2))
    )
    assert_unchanged(model, "sdpa")


def test_one_pipeline_in_four_threads(processor):
    explain = pipeline("relevance-map", model=tiny_vit(), image_processor=processor)
    pictures = [row["image"] for row in masked_rows(4)]

    def answer(thread: int) -> tuple:
        answer = explain(pictures[thread], target=thread)
        return answer["label"], answer["score"], np.asarray(answer["relevance"])

    alone = [answer(thread) for thread in range(4)]
    for results, (label, score, relevance) in zip(
        at_once(*(lambda thread=thread: answer(thread) for thread in range(4))), alone, strict=True
    ):
        for result in results:
            assert result[0] == label and result[1] == pytest.approx(score)
            assert np.abs(result[2].astype(int) - relevance).max() <= 1
    assert_unchanged(explain.model, "sdpa")
