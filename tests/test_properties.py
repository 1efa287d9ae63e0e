"""Properties over drawn inputs: maps equal the slow reference on both paths, losses are finite, and rows of bad data
are refused.

    pytest tests/test_properties.py --hypothesis-profile many     # hundreds of other examples, and not the same each time
"""

import io
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from unittest.mock import patch

import datasets
import numpy as np
import torch
from hypothesis import event, example, given
from hypothesis import strategies as st
from PIL import Image

from robust_vit_hf import (
    ConfidenceLoss,
    RelevanceLoss,
    eval_transform,
    make_image_processor,
    relevance_map,
    train_transform,
)
from robust_vit_hf.data.schema import check_columns, check_rows
from robust_vit_hf.data.transforms import segmentation_transform
from robust_vit_hf.relevance import linear_memory
from robust_vit_hf.relevance.architectures import VisionTransformer
from robust_vit_hf.training.methods import METHODS, load_method

from .helpers import reference
from .helpers.architectures import FAMILIES, Family, resolution
from .helpers.tiny import IMAGE_SIZE, tiny_config, tiny_vit


CLASSES = 4
SEEDS = st.integers(0, 2**16)


@dataclass(frozen=True)
class Case:
    """A model with random weights, images, and what is asked for."""

    family: str = "ViT"
    patch_size: int = 4
    trained_grid: int = 3  # patches along a side of the images that the position embeddings are for
    grid: tuple[int, int] = (3, 3)
    batch: int = 1
    layers: int = 2
    heads: int = 2
    registers: int = 4
    seed: int = 0
    scale: float = 1.0  # of the pixels; 0 for images of one colour
    dtype: torch.dtype = torch.float32
    target: int | tuple[int, ...] | None = None
    chunk: int = 200
    spared: int = 0  # layers at the bottom that are left out, if there is one above them

    @property
    def start_layer(self) -> int:
        return min(self.spared, self.layers - 1)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    def model(self):
        family: Family = FAMILIES[self.family]
        options = {"num_register_tokens": self.registers} if self.has_registers else {}
        return family.tiny(
            self.seed,
            patch_size=self.patch_size,
            image_size=self.trained_grid * self.patch_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            hidden_size=8 * self.heads,
            **options,
        ).to(self.dtype)

    @property
    def has_registers(self) -> bool:
        return self.family in ("Dinov2WithRegisters", "DINOv3ViT")

    def read(self) -> np.ndarray:
        """Weights (T,) of the tokens that the head reads."""
        family = FAMILIES[self.family]
        prefix = (1, *[0] * self.registers) if self.has_registers else family.prefix
        num_patches = self.grid[0] * self.grid[1]
        return np.array([*prefix, *[family.patches / num_patches] * num_patches])

    def pixel_values(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return (self.scale * torch.randn(self.batch, 3, *self.image_size, generator=generator)).to(self.dtype)

    def asked(self) -> torch.Tensor | int | None:
        return torch.tensor(self.target[: self.batch]) if isinstance(self.target, tuple) else self.target

    def reference(self) -> list[np.ndarray]:
        """Maps (H, W) before min–max, from the attentions that transformers returns."""
        model, pixel_values = self.model(), self.pixel_values()
        model.set_attn_implementation("eager")
        resized = self.image_size != (self.trained_grid * self.patch_size,) * 2
        output = model(pixel_values, output_attentions=True, **resolution(model) if resized else {})
        target = self.asked()
        target = output.logits.argmax(dim=1) if target is None else torch.as_tensor(target).expand(self.batch)
        score = output.logits.gather(1, target.unsqueeze(1)).sum()
        attentions = output.attentions[self.start_layer :]
        gradients = torch.autograd.grad(score, attentions)
        maps = []
        for index in range(self.batch):
            layers = ([t[index].detach().double().numpy() for t in tensors] for tensors in (attentions, gradients))
            tokens = (self.read() @ reference.relevance_matrix(*layers))[-self.grid[0] * self.grid[1] :]
            maps.append(reference.upsample(tokens.reshape(self.grid), *self.image_size))
        return maps


@contextmanager
def path_of(linear: bool, chunk: int):
    """Attentions held, or linear memory in chunks of some elements, for any number of tokens."""
    with patch.multiple(linear_memory, MIN_TOKENS=0 if linear else 10**9, CPU_CHUNK=chunk):
        yield


def cases(*dtypes: torch.dtype) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        family=st.sampled_from(sorted(FAMILIES)),
        patch_size=st.integers(1, 6),
        trained_grid=st.integers(1, 4),
        grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        batch=st.integers(1, 3),
        layers=st.integers(1, 3),
        heads=st.integers(1, 3),
        registers=st.integers(0, 5),
        seed=SEEDS,
        scale=st.sampled_from([0.0, 0.1, 1.0, 100.0]),
        dtype=st.sampled_from(dtypes),
        target=st.none() | st.integers(0, CLASSES - 1) | st.tuples(*[st.integers(0, CLASSES - 1)] * 3),
        chunk=st.integers(1, 500),
        spared=st.integers(0, 2),
    )


@given(cases(torch.float32, torch.float64))
@example(Case(dtype=torch.float64))
def test_maps_equal_the_reference(case):
    expected = case.reference()
    for linear in (False, True):
        with path_of(linear, case.chunk):
            options = {"target": case.asked(), "start_layer": case.start_layer}
            model, pixel_values = case.model(), case.pixel_values()
            raw = relevance_map(model, pixel_values, normalize=False, **options).relevance
            output = relevance_map(model, pixel_values, **options)
        assert output.relevance.shape == (case.batch, 1, *case.image_size)
        assert output.relevance.isfinite().all() and output.logits.shape == (case.batch, CLASSES)
        assert output.relevance.min() >= 0 and output.relevance.max() <= 1
        for one, normalized, slow in zip(raw, output.relevance, expected, strict=True):
            np.testing.assert_allclose(one[0].detach().numpy(), slow, atol=1e-4 * slow.max() + 1e-30, rtol=1e-4)
            low, span = slow.min(), slow.max() - slow.min()
            if span > 0.01 * slow.max():  # elsewhere what is left is rounding
                np.testing.assert_allclose(normalized[0].detach().numpy(), (slow - low) / span, atol=1e-2)
        output.relevance.square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@given(cases(torch.bfloat16, torch.float16), st.booleans())
def test_maps_of_half_precision(case, linear):
    with path_of(linear, case.chunk):
        output = relevance_map(
            case.model(), case.pixel_values(), case.asked(), start_layer=case.start_layer, check_finite=False
        )
    assert output.relevance.shape == (case.batch, 1, *case.image_size) and output.relevance.dtype == torch.float32
    finite = output.logits.isfinite().all(dim=1)
    assert output.relevance[finite].isfinite().all()
    assert output.relevance[finite].detach().clamp(0, 1).equal(output.relevance[finite])


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool, torch.complex64]
NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


@st.composite
def tensors(draw, shapes: st.SearchStrategy) -> torch.Tensor:
    return torch.full(tuple(draw(shapes)), draw(st.integers(0, 5)), dtype=draw(st.sampled_from(DTYPES)))


@given(
    tensors(
        st.tuples(st.integers(0, 2), st.integers(1, 4), *[st.sampled_from([0, 4, 8, 12, 16])] * 2)
        | st.lists(st.integers(0, 9), max_size=5)
    ),
    NUMBERS | st.lists(NUMBERS, max_size=3) | tensors(st.lists(st.integers(0, 2), max_size=2)),
    NUMBERS.filter(lambda number: isinstance(number, int)),
)
def test_what_is_no_image_or_target_is_refused(pixel_values, target, start_layer):
    try:
        output = relevance_map(tiny_vit(), pixel_values, target, start_layer=start_layer)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert output.relevance.shape == (len(pixel_values), 1, *pixel_values.shape[2:])


@st.composite
def grey(draw, height: int = 8, width: int = 8) -> np.ndarray:
    """Mask or map `(height, width)` in [0, 1]: empty, full, one pixel, binary or fractional."""
    kind = draw(st.sampled_from(["empty", "full", "one pixel", "binary", "fractional", "faint"]))
    rng = np.random.default_rng(draw(SEEDS))
    drawn = np.zeros((height, width)) if kind != "full" else np.ones((height, width))
    if kind == "one pixel":
        drawn[rng.integers(height), rng.integers(width)] = 1
    elif kind != "empty" and kind != "full":
        drawn = rng.random((height, width))
        drawn = drawn.round() if kind == "binary" else drawn * 1e-30 if kind == "faint" else drawn
    return drawn.astype(np.float32)


@given(
    grey(),
    grey(),
    st.lists(st.floats(-50, 50), min_size=2, max_size=5),
    st.sampled_from(["mse", "bce"]),
    st.sampled_from(["fractional", "complement"]),
    st.sampled_from(["image", "region"]),
)
def test_losses_are_finite_and_equal_the_reference(relevance, mask, logits, distance, mask_edges, mean_over):
    maps = torch.from_numpy(relevance)[None, None].requires_grad_()
    scores = torch.tensor([logits], requires_grad=True)
    losses = RelevanceLoss(distance=distance, mask_edges=mask_edges, mean_over=mean_over)(
        maps, torch.from_numpy(mask)[None, None]
    )
    losses |= ConfidenceLoss()(scores)
    assert all(value.isfinite() and value >= 0 for value in losses.values())
    if (distance, mask_edges, mean_over) == ("mse", "fractional", "image"):
        expected = reference.losses(relevance.astype(float), mask.astype(float), np.array(logits))
        for name, value in expected.items():
            np.testing.assert_allclose(losses[name].item(), value, rtol=1e-4, atol=1e-5)
    (losses["relevance_loss"] + losses["confidence_loss"]).backward()
    assert maps.grad.isfinite().all() and scores.grad.isfinite().all()


@given(
    st.sampled_from([*METHODS]),
    grey(IMAGE_SIZE, IMAGE_SIZE),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
    st.booleans(),
    SEEDS,
)
def test_losses_of_all_methods_are_finite(name, mask, scale, bf16, linear, seed):
    model = tiny_vit(seed, initializer_range=0.05)
    pixel_values = scale * torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))
    targets = {"label": torch.tensor([0, 3]), "prediction": None, "original": scale * torch.eye(2, 4)}
    with TemporaryDirectory() as folder, path_of(linear, 5), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        method = load_method(name)(tiny_config(folder, method=name))
        values, _ = method.per_image(
            VisionTransformer(model), pixel_values, torch.from_numpy(mask).expand(2, 1, -1, -1), targets
        )
        values["loss"].mean().backward()
    assert all(value.shape == (2,) and value.isfinite().all() for value in values.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@st.composite
def pictures(draw, modes: list[str]) -> dict | None:
    """A cell of a column of images: a picture of some mode and size, a damaged one, or none."""
    size = draw(st.sampled_from([(40, 40), (1, 1), (1, 60), (60, 1), (3, 50)]))
    levels = draw(st.lists(st.sampled_from([0, 1, 17, 128, 254, 255]), min_size=1, max_size=3))
    image = Image.new("L", size, levels[0])
    for index, level in enumerate(levels):
        image.paste(level, (index * size[0] // 4, 0, (index + 1) * size[0] // 4, size[1] // 2))
    buffer = io.BytesIO()
    image.convert(draw(st.sampled_from(modes))).save(buffer, "TIFF")
    content = buffer.getvalue()
    kind = draw(st.sampled_from(["whole"] * 6 + ["cut", "noise", "missing", "elsewhere"]))
    if kind == "missing":
        return None
    if kind == "elsewhere":
        return {"bytes": None, "path": "nowhere.png"}
    if kind == "noise":
        content = draw(st.binary(max_size=20))
    return {"bytes": content[: len(content) // 2] if kind == "cut" else content, "path": None}


@st.composite
def sets(draw) -> datasets.Dataset:
    """One or two rows with images, masks and labels of some type. `datasets` itself reads no table without rows."""
    count = draw(st.integers(1, 2))
    label_type, labels = draw(
        st.sampled_from(
            [
                (datasets.Value("int64"), st.integers(-1, CLASSES) | st.none()),
                (datasets.Value("uint8"), st.integers(0, CLASSES)),
                (datasets.ClassLabel(names=list("abcd")), st.integers(-1, 3) | st.none()),
                (datasets.Value("string"), st.text(max_size=3)),
                (datasets.Value("float32"), st.floats(width=32)),
                (datasets.Value("bool"), st.booleans()),
                (datasets.List(datasets.Value("int64")), st.lists(st.integers(0, 3), max_size=2)),
            ]
        )
    )
    image, mask = (
        pictures(["RGB", "L", "1", "RGBA", "CMYK", "F", "I;16", "I"]),
        pictures(["L"] * 5 + ["1", "RGB", "I;16"]),
    )
    columns = {"image": image, "mask": mask, "label": labels}
    rows = {name: [draw(cell) for _ in range(count)] for name, cell in columns.items()}
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image(), "label": label_type})
    left_out = draw(st.sampled_from([[]] * 5 + [["image"], ["mask"], ["label"]]))
    return datasets.Dataset.from_dict(rows, features=features).remove_columns(left_out)


@given(sets(), st.booleans(), st.sampled_from(["skip", "refuse"]))
def test_rows_are_refused_or_can_be_trained_on(dataset, needs_labels, bad_masks):
    try:
        check_columns(dataset, "train", ("label", "mask") if needs_labels else ("mask",))
        checked, _ = check_rows(dataset, "train", CLASSES, bad_masks)
    except ValueError as error:
        event(str(error)[:30])
        return
    event("rows")
    processor = make_image_processor("paper", IMAGE_SIZE)
    for transform in (train_transform, eval_transform, segmentation_transform):
        batch = transform(processor)(checked[:])
        assert len(batch["pixel_values"]) == len(batch["mask"]) == len(checked) > 0
        for pixels, mask in zip(batch["pixel_values"], batch["mask"], strict=True):
            assert pixels.shape == (3, IMAGE_SIZE, IMAGE_SIZE) and pixels.isfinite().all()
            assert mask.shape == (1, IMAGE_SIZE, IMAGE_SIZE) and mask.min() >= 0 and mask.max() <= 1
        assert all(0 <= label < CLASSES for label in batch.get("labels", []))
