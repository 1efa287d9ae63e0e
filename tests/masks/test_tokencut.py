"""TokenCut against dense solvers and brute-force definitions, on real features of the bundled backbone, and on every
architecture."""

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from scipy import ndimage

from robust_vit_hf.data.emoji_shift import load_split
from robust_vit_hf.masks import tokencut
from robust_vit_hf.models.emoji_shift_model import load_backbone
from robust_vit_hf.relevance.architectures import ImageModel

from ..helpers.architectures import FAMILIES, resolution
from ..helpers.tiny import SIZES, images, tiny_vit


def affinity(keys: torch.Tensor) -> np.ndarray:
    keys = F.normalize(keys, dim=-1)
    return np.where((keys @ keys.T).numpy() > 0.2, 1.0, 1e-5)


def dense_solution(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    degrees = np.diag(weights.sum(axis=1))
    return scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 2])


def dense_mask(vector: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    seed = np.abs(vector).argmax()
    foreground = vector > vector.mean()
    if not foreground[seed]:
        foreground = ~foreground
    components, _ = ndimage.label(foreground.reshape(grid))
    return components == components.flat[seed]


def keys_of_graph(alike: np.ndarray) -> torch.Tensor:
    """Keys whose cosines are 0.6 or more between patches that are alike, and at most 0 between others: rows of a square
    root of a Gram matrix. `alike` is a union of cliques."""
    return torch.linalg.cholesky(torch.from_numpy(0.6 * alike + 0.4 * np.eye(len(alike)))).float()


def cliques(*sizes: int) -> np.ndarray:
    group = np.repeat(np.arange(len(sizes)), sizes)
    return group[:, None] == group


def angle(vector, other, degrees) -> float:
    """Sine of the angle between vectors, in the inner product of the degrees, in which eigenvectors are orthogonal."""
    vector, other = (np.asarray(x) * np.sqrt(degrees) for x in (vector, other))
    vector, other = vector / np.linalg.norm(vector), other / np.linalg.norm(other)
    return np.linalg.norm(vector - (vector @ other) * other)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone().eval()


@pytest.fixture(scope="module")
def photographs() -> list[tuple[Image.Image, np.ndarray]]:
    """16 images of emoji-shift before all of its photographs, 224×224, and their foreground."""
    return [
        (
            row["image"].resize((224, 224), Image.Resampling.BICUBIC),
            np.asarray(row["mask"].resize((224, 224), Image.Resampling.NEAREST)) == 255,
        )
        for row in load_split("val", 96).select(range(0, 96, 6))
    ]


@pytest.fixture(scope="module")
def features(backbone, photographs) -> torch.Tensor:
    """Keys `(16, 256, 384)` of the images."""
    normalize = tokencut.TokenCut(backbone).normalize
    pixels = [normalize(torch.from_numpy(np.array(image)).movedim(2, 0)) for image, _ in photographs]
    return tokencut.patch_features(ImageModel(backbone), torch.stack(pixels), key_bias=False).keys


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    return (mask & other).sum() / (mask | other).sum()


def foreground(result) -> np.ndarray:
    assert result.mask.mode == "L"
    values = np.asarray(result.mask)
    assert set(np.unique(values)) <= {0, 255}
    return values == 255


def assert_is_the_cut(keys: torch.Tensor, grid: tuple[int, int]) -> None:
    vectors, unique = tokencut.cut_eigenvectors(keys)
    masks = tokencut.coarse_masks(vectors, grid)
    assert vectors.dtype == torch.float64 and unique.all()
    for image, vector, mask in zip(keys, vectors, masks, strict=True):
        weights = affinity(image)
        (value, following), expected = dense_solution(weights)
        assert following > value * (1 + 1e-3)  # the reference is unique, too
        assert angle(vector, expected[:, 0], weights.sum(axis=1)) < 1e-6
        np.testing.assert_array_equal(mask, dense_mask(expected[:, 0], grid))


def test_real_features(features):
    assert_is_the_cut(features, (16, 16))


@pytest.mark.parametrize("num_channels", [6, 24, 384])  # dense graphs, and nearly empty ones
def test_random_features(num_channels):
    generator = torch.Generator().manual_seed(num_channels)
    keys = torch.randn(6, 12 * 15, num_channels, generator=generator) + 0.4
    assert_is_the_cut(keys, (12, 15))


@pytest.mark.parametrize("sizes", [(1, 195), (*[1] * 30, 166), (1, 2)])
def test_groups_that_are_joined_by_weak_links_alone(sizes):
    """Among them 30 eigenvalues within 1e-5, and the smallest graph."""
    assert_is_the_cut(keys_of_graph(cliques(*sizes)).unsqueeze(0), (1, sum(sizes)))


@pytest.mark.parametrize("sizes", [(7,) * 28, (2, 2, 2)])
def test_a_multiple_eigenvalue_is_reported(sizes):
    keys = keys_of_graph(cliques(*sizes)).unsqueeze(0)
    values, _ = dense_solution(affinity(keys[0]))
    assert values[1] == pytest.approx(values[0], rel=1e-9)
    vectors, unique = tokencut.cut_eigenvectors(keys)
    assert not unique.any()
    # An eigenvector all the same: constant on each clique, and orthogonal to 1 in the inner product of the degrees.
    groups = vectors[0].split(sizes)
    scale = vectors.abs().max()
    assert scale > 0 and all((group - group.mean()).abs().max() < 1e-6 * scale for group in groups)
    assert abs((vectors[0] * torch.from_numpy(affinity(keys[0]).sum(axis=1))).sum()) < 1e-6 * scale * sum(sizes)
    # The same alone, again, and beside other images.
    again, _ = tokencut.cut_eigenvectors(torch.cat([torch.randn_like(keys), keys, torch.randn_like(keys)]))
    torch.testing.assert_close(again[1], vectors[0], rtol=0, atol=1e-6 * scale.item())


@pytest.mark.parametrize(
    "keys",
    [torch.ones(1, 50, 4), torch.eye(50).unsqueeze(0), torch.zeros(1, 50, 4), torch.full((1, 50, 4), torch.nan)],
)
def test_graphs_without_structure_have_no_cut(keys):
    vectors, unique = tokencut.cut_eigenvectors(keys)
    assert not vectors.any() and not unique.any()
    assert not tokencut.coarse_masks(vectors, (5, 10)).any()


def test_coarse_mask_by_hand():
    """Mean 0.25. The seed −4 is below it, so that side is the foreground; of its components the one of the seed is kept,
    and a diagonal neighbour is not part of it."""
    vector = torch.tensor([[-4.0, -1, 2, 2], [2, 2, -1, 2], [2, 2, 2, -3], [-1, -1, 2, 1]], dtype=torch.float64)
    expected = np.zeros((4, 4), dtype=bool)
    expected[0, :2] = True
    for sign in (1, -1):
        masks = tokencut.coarse_masks(sign * torch.stack([vector.flatten(), vector.flip(1).flatten()]), (4, 4))
        np.testing.assert_array_equal(masks, [expected, expected[:, ::-1]])


def test_components_do_not_reach_into_the_next_image():
    first, second = torch.zeros(2, 9, dtype=torch.float64), torch.zeros(2, 9, dtype=torch.float64)
    first[0, 4], first[1, 4] = 3, 3
    second[0, :6], second[1, 4] = 2.0, -5
    np.testing.assert_array_equal(tokencut.coarse_masks(first, (3, 3)).sum(axis=(1, 2)), [1, 1])
    np.testing.assert_array_equal(tokencut.coarse_masks(second, (3, 3)).sum(axis=(1, 2)), [6, 1])


def test_equal_seeds_are_not_told_apart_by_rounding():
    vector = torch.tensor([[1.0, 0, 0, 0, 0, 0, 1.0, 0]], dtype=torch.float64)
    for noise in (-1e-12, 1e-12):
        vector[0, 6] = 1 + noise
        np.testing.assert_array_equal(tokencut.coarse_masks(vector, (1, 8))[0, 0].nonzero()[0], [0])


def drawing() -> tuple[Image.Image, np.ndarray]:
    """A red disc on grey noise, 96×80, and the disc."""
    y, x = np.mgrid[:80, :96]
    disc = (x - 50) ** 2 + (y - 38) ** 2 < 24**2
    pixels = np.random.default_rng(0).integers(90, 110, (80, 96, 1)).repeat(3, axis=2)
    pixels[disc] = [200, 40, 40]
    return Image.fromarray(pixels.astype(np.uint8)), disc


def test_bilateral_solver_by_its_definition():
    """Dense matrices over the occupied cells, and a direct solver."""
    y, x = np.mgrid[:30, :40]
    pixels = np.stack([40 + 2 * x, 60 + y, 100 - y], axis=2)
    pixels[(x - 22) ** 2 + (y - 14) ** 2 < 100] = [190, 60, 40]
    image, target = Image.fromarray(pixels.astype(np.uint8)), (x > 12) & (y < 25) & (x + y < 50)
    colours = np.asarray(image.convert("YCbCr")).astype(int)
    cells, lookup = {}, np.empty(target.shape, dtype=int)
    for y, x in np.ndindex(target.shape):
        luma, blue, red = colours[y, x]
        lookup[y, x] = cells.setdefault((x // 16, y // 16, luma // 16, blue // 8, red // 8), len(cells))
    count = len(cells)
    assert 20 < count < 100
    blur = 10 * np.eye(count)
    for cell, row in cells.items():
        for other, column in cells.items():
            blur[row, column] += sum(abs(a - b) for a, b in zip(cell, other, strict=True)) == 1
    splat = np.zeros((count, target.size))
    splat[lookup.ravel(), np.arange(target.size)] = 1
    mass = splat.sum(axis=1)
    scale = np.ones(count)
    for _ in range(10):
        scale = np.sqrt(scale * mass / (blur @ scale))
    smoothness = np.diag(scale * (blur @ scale)) - scale[:, None] * blur * scale
    solution = np.linalg.solve(256 * smoothness + 0.999 * np.diag(mass), 0.999 * splat @ target.ravel())
    np.testing.assert_allclose(tokencut.bilateral_solver(image, target), solution[lookup], atol=3e-3)  # after 25 steps
    assert np.ptp(solution) > 0.3  # or it tests nothing


def test_bilateral_solver_of_a_wide_image():
    """255 and more cells along a side: those of the released code would overlap."""
    pixels = np.zeros((32, 4400, 3), dtype=np.uint8)
    target = np.zeros((32, 4400), dtype=bool)
    target[:16, 4336:] = True  # its cells would be those of x < 320 one row below
    smooth = tokencut.bilateral_solver(Image.fromarray(pixels), target)
    assert smooth[:, :1000].max() < 1e-3 < 0.2 < smooth[:16, 4380:].min()


def test_refinement_follows_the_edges():
    image, disc = drawing()
    coarse = np.kron(disc.reshape(5, 16, 6, 16).mean(axis=(1, 3)) > 0.6, np.ones((16, 16))).astype(bool)
    refined = tokencut.refine_mask(image, coarse)
    assert overlap(refined, disc) > 0.97 > 0.85 > overlap(coarse, disc)


def test_refinement_fills_holes_and_keeps_the_largest_component():
    image, disc = drawing()
    pixels = np.asarray(image).copy()
    pixels[30:40, 45:55] = [20, 20, 200]  # a hole in colour
    pixels[:8, :8] = [200, 40, 40]  # a second, small object
    coarse = disc.copy()
    coarse[30:40, 45:55] = False
    coarse[:8, :8] = True
    refined = tokencut.refine_mask(Image.fromarray(pixels), coarse)
    assert refined[30:40, 45:55].all() and not refined[:8, :8].any()
    assert not tokencut.refine_mask(image, np.zeros_like(disc)).any()


KEYED = ("ViT", "ViTMSN", "DeiT", "Dinov2", "Dinov2WithRegisters", "DINOv3ViT", "BEiT", "Data2VecVision")


@pytest.mark.parametrize("name, headless", [*((name, True) for name in KEYED), ("DeiT", False)])
@pytest.mark.parametrize("size", [(32, 32), (48, 24)])
def test_keys_of_every_architecture(name, headless, size):
    """Against all that the projection puts out in a whole forward pass."""
    model = FAMILIES[name].tiny()
    model = model.base_model if headless else model
    projection, bias = tokencut.key_projection(ImageModel(model)), torch.linspace(-1, 1, 24)
    projection.register_parameter("bias", torch.nn.Parameter(bias))
    pixel_values, recorded = images(2, *size), []
    hook = projection.register_forward_hook(lambda module, args, output: recorded.append(output))
    with torch.no_grad():
        model(pixel_values, **resolution(model))
    hook.remove()
    (expected,) = recorded
    num_patches = size[0] // 8 * (size[1] // 8)
    keys = tokencut.patch_features(ImageModel(model), pixel_values, key_bias=True).keys
    assert keys.shape == (2, num_patches, 24) and not keys.requires_grad
    torch.testing.assert_close(keys, expected[:, len(FAMILIES[name].prefix) :], rtol=0, atol=0)
    without = tokencut.patch_features(ImageModel(model), pixel_values, key_bias=False).keys
    torch.testing.assert_close(keys - without, bias.expand_as(keys), rtol=0, atol=1e-5)


def test_the_model_is_left_as_it_was(photographs):
    model = tiny_vit()
    before = copy.deepcopy(model.state_dict())
    hooks = [len(module._forward_hooks) for module in model.modules()]
    make = tokencut.TokenCut(model)
    images = [image for image, _ in photographs[:3]]
    make(images, [{}] * 3)
    make(images, [{}] * 3)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="Expected 3 but got 5"):  # a failing pass leaves none, either
        tokencut.patch_features(ImageModel(model), torch.zeros(1, 5, 32, 32), key_bias=True)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 4)


def test_the_bias_of_the_keys(backbone, photographs):
    """DINOv2's keys have a bias that hides the rest, and so do not by default; DINO's keep theirs, as in the paper."""
    images = [image for image, _ in photographs[:3]]
    with_bias = tokencut.TokenCut(backbone)
    with_bias.key_bias = True
    for result in with_bias(images, [{}] * 3):
        assert result.mask is None and result.rejected.startswith("nothing to cut: all patches are alike")
    assert not tokencut.TokenCut(backbone).key_bias and tokencut.TokenCut(tiny_vit()).key_bias


def test_mixed_sizes_keep_their_order_and_do_not_depend_on_the_batch(backbone, photographs):
    sizes = [(112, 112), (150, 90), (112, 112), (90, 150), (110, 114), (112, 112), (150, 90)]
    images = [image.resize(size) for (image, _), size in zip(photographs, sizes, strict=False)]
    rows = [{"label": index} for index in range(len(images))]
    make = tokencut.TokenCut(backbone, batch_size=2, min_pixels=0)
    assert {make.grid(image) for image in images} == {(8, 8), (6, 11), (11, 6)}
    results = make(images, rows)
    assert [result.mask.size for result in results] == sizes
    for image, result, row in zip(images, results, rows, strict=True):
        (single,) = make([image], [row])
        assert single.mask.tobytes() == result.mask.tobytes()
        assert (single.note, single.rejected) == (result.note, result.rejected)
    assert len({result.mask.tobytes() for result in results}) == len(results)
    assert make([], []) == []


def test_a_pixel_is_foreground_if_most_of_it_is_in_the_enlarged_mask(photographs):
    """Pixels become blocks of 3×3, which the borders of the patches of 8×8 divide."""
    image = photographs[0][0].resize((40, 32), Image.Resampling.BOX)
    model, options = tiny_vit(), {"refine": False, "min_pixels": 0}
    (result,) = tokencut.TokenCut(model, min_side=96, **options)([image], [{}])
    (enlarged,) = tokencut.TokenCut(model, **options)([image.resize((120, 96), Image.Resampling.LANCZOS)], [{}])
    shares = np.asarray(enlarged.mask).reshape(32, 3, 40, 3).mean(axis=(1, 3)) / 255
    assert ((shares > 0) & (shares < 0.5)).any() and ((shares > 0.5) & (shares < 1)).any()
    assert np.array_equal(np.asarray(result.mask) > 0, shares > 0.5)


def test_fallback_to_the_coarse_mask(backbone, photographs, monkeypatch):
    image = min(photographs, key=lambda pair: pair[1].mean())[0]  # of a small object
    (coarse,) = tokencut.TokenCut(backbone, refine=False)([image], [{}])
    share = foreground(coarse).mean()
    assert 0.05 < share < 0.45
    # Off, and flooded.
    for refined, overlap in ((lambda _, mask: ~mask, 0), (lambda _, mask: np.ones_like(mask), share)):
        monkeypatch.setattr(tokencut, "refine_mask", refined)
        (result,) = tokencut.TokenCut(backbone)([image], [{}])
        assert result.note == f"coarse mask: the refined one overlaps it by an IoU of {overlap:.2f}"
        assert result.mask.tobytes() == coarse.mask.tobytes() and result.rejected is None


def test_small_masks_are_rejected_and_kept(backbone, photographs):
    (image, _) = photographs[0]
    count = foreground(tokencut.TokenCut(backbone)([image], [{}])[0]).sum()
    assert count > 520
    (result,) = tokencut.TokenCut(backbone, min_pixels=count + 1)([image], [{}])
    assert result.rejected == f"{count} foreground pixels, fewer than {count + 1}"
    assert foreground(result).sum() == count
    assert tokencut.TokenCut(backbone, min_pixels=count)([image], [{}])[0].rejected is None
    other = load_split("val", 96)[7]["image"].resize((224, 224), Image.Resampling.BICUBIC)
    (small,) = tokencut.TokenCut(backbone)([other.resize((40, 40))], [{}])
    assert small.rejected == f"{foreground(small).sum()} foreground pixels, fewer than 520"


def test_nothing_to_cut():
    model = tiny_vit()
    with torch.no_grad():
        model.vit.embeddings.position_embeddings.zero_()
    grey, noise = Image.new("RGB", (64, 64), (90, 90, 90)), Image.effect_noise((64, 64), 90).convert("RGB")
    constant, other, tiny = tokencut.TokenCut(model)([grey, noise, grey.resize((8, 16))], [{}] * 3)
    assert constant.mask is None and constant.rejected == "nothing to cut: all patches are alike, or no two are"
    assert other.mask is not None
    assert tiny.mask is None and tiny.rejected.startswith("2×1 patches are too few")
    with torch.no_grad():
        model.vit.embeddings.cls_token.fill_(torch.nan)
    (result,) = tokencut.TokenCut(model)([noise], [{}])
    assert result.mask is None and result.rejected == "the model's features are not finite"


def test_an_arbitrary_cut_is_rejected_and_kept(monkeypatch):
    group = np.kron([[0, 1], [2, 3]], np.ones((2, 2), dtype=int)).ravel()
    keys = keys_of_graph(group[:, None] == group).unsqueeze(0)  # of 4×4 patches
    features = tokencut.PatchFeatures(keys, keys)
    monkeypatch.setattr(tokencut, "patch_features", lambda model, pixel_values, key_bias: features)
    results = [
        tokencut.TokenCut(tiny_vit(), min_pixels=0, refine=False)([Image.new("RGB", (32, 32))], [{}])[0] for _ in "ab"
    ]
    assert results[0].rejected.startswith("the cut is arbitrary")
    assert 0 < foreground(results[0]).sum() < 32 * 32 and results[0].mask.tobytes() == results[1].mask.tobytes()


def test_large_images_are_shrunk(photographs):
    """To the features and the solver of a smaller image, whose mask is enlarged."""
    image = photographs[0][0].resize((400, 200))
    make = tokencut.TokenCut(tiny_vit(), max_side=112)
    for size, grid in [((43, 45), (6, 5)), ((3, 100), (12, 1)), ((8, 8), (1, 1))]:  # the nearest multiple of 8 pixels
        assert make.grid(Image.new("RGB", size)) == grid
    small = image.resize((112, 56), Image.Resampling.LANCZOS)
    (result,), (of_small,) = (make([picture], [{}]) for picture in (image, small))
    enlarged = of_small.mask.resize((400, 200), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(foreground(result), np.asarray(enlarged) > 127)


def test_a_cut_that_holds_three_corners_is_turned_over(monkeypatch):
    cut = np.ones((16, 16), dtype=bool)
    cut[4:12, 4:] = False  # the object reaches two corners
    monkeypatch.setattr(tokencut, "coarse_masks", lambda vectors, grid: np.stack([turned, cut[:, ::-1]]))
    images, model = [Image.new("RGB", (128, 128))] * 2, tiny_vit()
    for corners, is_turned in ((2, False), (3, True), (4, True)):
        turned = cut.copy()
        turned[[0, -1], -1] = False
        turned[0, -1], turned[-1, -1] = corners > 2, corners > 3
        result, other = tokencut.TokenCut(model, refine=False)(images, [{}, {}])
        share = (~turned if is_turned else turned).mean()
        assert foreground(result).mean() == share and foreground(other).mean() == (~cut).mean()
        (result, _) = tokencut.TokenCut(model, refine=False, released=True)(images, [{}, {}])
        assert foreground(result).mean() == turned.mean()


def test_images_are_normalised_and_resized_as_documented(photographs):
    """What reaches the model, by default and with a processor."""
    image = photographs[0][0].resize((43, 45))
    model, seen = tiny_vit(), []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    tokencut.TokenCut(model)([image], [{}])
    tokencut.TokenCut(model, transformers.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3))([image], [{}])
    tokencut.TokenCut(model, transformers.ViTImageProcessor(do_normalize=False))([image], [{}])
    pixels = torch.from_numpy(np.array(image.resize((40, 48), Image.Resampling.LANCZOS))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert len(seen) == 3
    torch.testing.assert_close(seen[0][0], (pixels - mean) / std)
    torch.testing.assert_close(seen[1][0], (pixels - 0.5) / 0.25)
    torch.testing.assert_close(seen[2][0], pixels)


def test_from_pretrained(tmp_path, photographs):
    model = tiny_vit()
    model.vit.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(tmp_path)
    make = tokencut.TokenCut.from_pretrained(str(tmp_path), refine=False)
    white = make.normalize(torch.full((3, 8, 8), 255, dtype=torch.uint8))
    torch.testing.assert_close(white, torch.full((3, 8, 8), 2.0))  # (1 - 0.4) / 0.3
    assert not make.vit.pretrained.training
    images = [image.resize((96, 96)) for image, _ in photographs[:2]]
    expected = tokencut.TokenCut(model, transformers.ViTImageProcessor.from_pretrained(tmp_path), refine=False)
    for result, other in zip(make(images, [{}] * 2), expected(images, [{}] * 2), strict=True):
        assert result.mask.tobytes() == other.mask.tobytes()


def test_models_without_layers_or_all_patches_are_refused(photographs, tmp_path):
    """Such as the file of the DINOv3 head of this package, of which `AutoModel` takes no weight, and one that hides patches."""
    FAMILIES["DINOv3ViT"].tiny().save_pretrained(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks \d+ weights of layers of a `DINOv3ViTModel`, such as `model\.layer"):
        tokencut.TokenCut.from_pretrained(str(tmp_path))
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**SIZES)).eval()
    with pytest.raises(ValueError, match=r"keys of shape .* for 1 images of 28×28 patches.*masks its input"):
        tokencut.TokenCut(model)([photographs[0][0]], [{}])
