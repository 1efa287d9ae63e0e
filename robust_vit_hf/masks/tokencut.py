"""Foreground masks from the features of a self-supervised ViT, without annotation: TokenCut. Also the result of any mask maker.

Patches form a graph that connects those with similar features. Its normalised cut separates object and background, and
a bilateral solver aligns the border, which follows the patches, with image edges.

Source: https://huggingface.co/papers/2202.11539; of the solver: https://huggingface.co/papers/1511.03296
"""

import re
from collections import defaultdict
from dataclasses import KW_ONLY, dataclass, replace
from functools import cache
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg
from torch import nn
from torchvision.transforms.v2 import functional
from transformers import AutoImageProcessor, AutoModel, BaseImageProcessor, ViTImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..data.transforms import normalization
from ..models.model_names import MODELS, check_model
from ..relevance.architectures import ImageModel
from ..relevance.attention import hooks_of_this_thread
from ..utils.files import weights_read


TAU = 0.2  # cosine above which two patches are similar, as in the paper
WEAK_LINK = 1e-5  # affinity of dissimilar patches, so that the graph is connected
MAX_SIDE_RELEASED = 1024  # pixels; the released pipeline does not shrink images
CORNERS = 3  # a cut with at least so many corners of the image is the background (MaskCut, https://huggingface.co/papers/2301.11320)


@dataclass
class MaskResult:
    """Foreground mask of one image, by any mask maker. A rejected mask is kept for inspection.

    Args:
        mask: mode "L", 0 background and 255 foreground, of the image's size; `None` if there is none.
        note: remark for the user, such as a fallback or the boxes found.
        rejected: why the mask should not be trained on; `None` if it may be.
        doubt: why the mask is not trusted, although it may be right; `None` if it is.
    """

    mask: Image.Image | None
    note: str | None = None
    rejected: str | None = None
    doubt: str | None = None

    def resized(self, size: tuple[int, int]) -> "MaskResult":
        """The result for an image of another size (width, height)."""
        if self.mask is None or self.mask.size == size:
            return self
        method = Image.Resampling.BOX if size[0] < self.mask.width else Image.Resampling.BILINEAR
        return replace(self, mask=self.mask.resize(size, method).point(lambda share: 255 * (share > 127)))

    @classmethod
    def of(cls, foreground: np.ndarray, note: str | None = None, rejected: str | None = None) -> "MaskResult":
        """Result of foreground pixels `(H, W)`, bool."""
        return cls(Image.fromarray(foreground.astype(np.uint8) * 255), note, rejected)


@dataclass(eq=False)
class TokenCut:
    """Masks of the salient object, by the normalised cut of a ViT's features. Only mean and standard deviation of the processor are
    used: each side is resized to the nearest multiple of the patch size (Lanczos, as in the released code). A cut that holds three
    corners of the image is inverted.

    Keys keep the bias of their projection only for the model type `vit`, such as DINO, as in the paper. Attention does not depend on
    the bias, so training does not determine it: in DINOv2-S/14, its norm equals that of the keys, which makes all patches similar.

    Source: https://huggingface.co/papers/2202.11539

    Args:
        model: ViT of transformers with one patch grid, preferably self-supervised; in eval mode.
        processor: image processor; by default, mean and standard deviation of ImageNet are used.
        batch_size: number of images with the same patch grid in a forward pass.
        min_pixels: smallest foreground, in pixels, of a mask that is not rejected; 520 is the limit of RobustViT.
        min_side: shorter side in pixels to which smaller images are enlarged, for a finer patch grid; masks get the size of the image.
            `min_pixels` refers to the enlarged image.
        max_side: longer side in pixels to which larger images are shrunk, since the time of a cut grows with the sixth power of the side.
        refine: whether the bilateral solver aligns masks with edges; otherwise, they are unions of patches.
        released: whether to do as RobustViT's released pipeline does: masks of more than half of the image are rejected, and so are
            refined masks whose IoU with the coarse one is below 0.5; cuts are not inverted, and images are shrunk to 1024 pixels. By
            default, large masks are kept, and such refined masks are replaced by the coarse one.
        bf16: whether to compute the keys with autocast to bfloat16; the cut is computed in fp32 and fp64.
    """

    model: nn.Module
    processor: BaseImageProcessor | None = None
    _: KW_ONLY
    batch_size: int = 16
    min_pixels: int = 520
    min_side: int = 0
    max_side: int = 448
    refine: bool = True
    released: bool = False
    bf16: bool = False

    def __post_init__(self):
        self.vit = ImageModel(self.model)
        key_projection(self.vit)  # rejects other architectures early
        imagenet = {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}
        self.normalize = normalization(self.processor or ViTImageProcessor(**imagenet))
        self.patch_size = self.vit.patch_size
        self.models = {"model": self.vit.pretrained}  # that determine the masks, by the names of their settings
        self.key_bias = self.vit.pretrained.config.model_type == "vit"

    @classmethod
    def from_pretrained(cls, name: str, device: str | torch.device = "cpu", **arguments) -> Self:
        """Load model and image processor from a Hub id or folder, or the backbone of a bundled model. `arguments` are those of the class."""
        if (backbone := backbone_of(name)) is not None:
            return cls(backbone.to(device), **arguments)
        check_model(name)
        with weights_read(name):
            model, loading = AutoModel.from_pretrained(name, output_loading_info=True)
            processor = AutoImageProcessor.from_pretrained(name)
        if layers := sorted(key for key in loading["missing_keys"] if re.search(r"\blayers?\.\d+\.", key)):
            lacking = f"{len(layers)} weights of layers of a `{type(model).__name__}`, such as `{layers[0]}`"
            raise ValueError(f"`{name}` lacks {lacking}: expected weights that have the names of transformers.")
        # Other missing weights, such as a pooler's, do not affect the keys, but random ones would change the digest each time.
        with torch.no_grad():
            for key in loading["missing_keys"]:
                model.state_dict()[key].zero_()
        return cls(model.eval().to(device), processor, **arguments)

    def __call__(self, images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
        """Make masks of RGB images of any sizes, in order. `rows`, an argument of all mask makers, is ignored."""
        resized, by_grid, results = [], defaultdict(list), {}
        longest = MAX_SIDE_RELEASED if self.released else self.max_side
        for index, image in enumerate(images):
            scale = min(longest / max(image.size), max(1, self.min_side / min(image.size)))
            size = [max(1, round(scale * side)) for side in image.size]
            resized.append(image.resize(size, Image.Resampling.LANCZOS))
            by_grid[self.grid(resized[index])].append(index)
        for grid, indices in by_grid.items():
            for start in range(0, len(indices), self.batch_size):
                batch = indices[start : start + self.batch_size]
                results |= zip(batch, self._batch([resized[index] for index in batch], grid), strict=True)
        return [results[index].resized(image.size) for index, image in enumerate(images)]

    def grid(self, image: Image.Image) -> tuple[int, int]:
        """Patch grid `(h, w)` of an image of the size that the model sees."""
        sides = zip(image.size[::-1], self.patch_size, strict=True)
        return tuple(max(1, round(side / patch)) for side, patch in sides)

    def _batch(self, images: list[Image.Image], grid: tuple[int, int]) -> list[MaskResult]:
        """Results of images with the same patch grid."""
        if grid[0] * grid[1] < 3:
            reason = f"{grid[0]}×{grid[1]} patches are too few to tell an object from the background"
            return [MaskResult(None, rejected=reason) for _ in images]
        features = self.features(images, grid)
        finite = features.keys.isfinite().flatten(1).all(dim=1).tolist()
        eigenvectors, unique = cut_eigenvectors(features.keys)
        cuts = coarse_masks(eigenvectors, grid)
        if not self.released:
            cuts = np.stack([~cut if num_corners(cut) >= CORNERS else cut for cut in cuts])
        proposals = self.proposed(features, cuts, unique.tolist(), [image.size for image in images])
        return [self._result(*parts) for parts in zip(images, proposals, finite, strict=True)]

    def features(self, images: list[Image.Image], grid: tuple[int, int]) -> "PatchFeatures":
        """Features of images with the same patch grid."""
        size = (grid[1] * self.patch_size[1], grid[0] * self.patch_size[0])
        resized = [functional.pil_to_tensor(image.resize(size, Image.Resampling.LANCZOS)) for image in images]
        pixel_values = torch.stack([self.normalize(image) for image in resized])
        with torch.autocast(self.vit.pretrained.device.type, torch.bfloat16, enabled=self.bf16):
            return patch_features(self.vit, pixel_values, self.key_bias)

    def proposed(
        self, features: "PatchFeatures", cuts: np.ndarray, unique: list[bool], sizes: list[tuple[int, int]]
    ) -> list[MaskResult]:
        """Coarse masks of images of the given sizes (width, height): here the cuts `(B, h, w)`, bool, themselves."""
        results = []
        for cut, is_unique, size in zip(cuts, unique, sizes, strict=True):
            mask = Image.fromarray(cut).resize(size, Image.Resampling.NEAREST)
            rejected = None if is_unique else "the cut is arbitrary: several parts of the image stand out alike"
            results.append(MaskResult.of(np.asarray(mask), rejected=rejected))
        return results

    def _result(self, image: Image.Image, proposal: MaskResult, finite: bool) -> MaskResult:
        if not finite:
            return MaskResult(None, rejected="the model's features are not finite")
        mask = np.asarray(proposal.mask) > 0
        if not mask.any():
            return MaskResult(None, rejected="nothing to cut: all patches are alike, or no two are")
        note, rejected = None, proposal.rejected
        if self.refine:
            refined = refine_mask(image, mask)
            overlap = (refined & mask).sum() / (refined | mask).sum()
            if overlap < 0.5 and not self.released:
                note = f"coarse mask: the refined one overlaps it by an IoU of {overlap:.2f}"
            else:
                mask = refined
                if overlap < 0.5 and rejected is None:
                    rejected = f"the refined mask overlaps the coarse one by an IoU of {overlap:.2f}, below 0.5"
        num_pixels = int(mask.sum())
        if proposal.rejected is None and num_pixels < self.min_pixels:
            rejected = f"{num_pixels} foreground pixels, fewer than {self.min_pixels}"
        elif self.released and rejected is None and 2 * num_pixels > mask.size:
            rejected = f"the foreground is {num_pixels / mask.size:.0%} of the image, more than half"
        return replace(MaskResult.of(mask, note, rejected), doubt=proposal.doubt)


@cache
def backbone_of(name: str) -> nn.Module | None:
    """Return the self-supervised backbone of a bundled model, in eval mode; `None` for other models."""
    registered = MODELS.get(name)
    return registered.load_backbone().eval() if registered and registered.load_backbone else None


def key_projection(model: ImageModel) -> nn.Module:
    """The key projection of the last layer of a ViT with attention over one patch grid."""
    pretrained, config = model.pretrained, model.pretrained.config
    modules = pretrained.named_modules()
    projections = [module for path, module in modules if path.rpartition(".")[2] in ("k_proj", "key")]
    own_grid = hasattr(config, "patch_size") and not hasattr(config, "window_size")
    if not projections or len(projections) != getattr(config, "num_hidden_layers", None) or not own_grid:
        raise ValueError(
            f"`{model.name}` has no key projection over one patch grid in each layer, so TokenCut has nothing to cut: give a plain ViT of "
            "transformers, such as `facebook/dinov2-small`, or make masks by the names of the classes (`grounded`)."
        )
    return projections[-1]


class PatchFeatures(NamedTuple):
    """Features of the patches of B images in the last layer, without prefix tokens, fp32."""

    keys: torch.Tensor  # `(B, N, C)`, of the attention
    hidden: torch.Tensor  # `(B, N, D)`, the last hidden state


@torch.no_grad()
def patch_features(model: ImageModel, pixel_values: torch.Tensor, key_bias: bool) -> PatchFeatures:
    """Compute the features of a model in eval mode in one forward pass of `(B, 3, H, W)`, normalised as the model expects. `key_bias` is
    whether keys keep the bias of their projection. A model that does not give a key for each patch raises a `ValueError`."""
    pretrained, projection = model.pretrained, key_projection(model)
    height, width = model.patch_grid(pixel_values)
    arguments = model.forward_arguments(tuple(pixel_values.shape[2:]))
    outputs: list = []
    parts = (projection, pretrained.base_model)  # in the order in which they end
    hooks = [(part.register_forward_hook, lambda module, args, output: outputs.append(output)) for part in parts]
    with hooks_of_this_thread(*hooks):
        pretrained(pixel_values=pixel_values.to(pretrained.device, pretrained.dtype), **arguments)
    keys, hidden = outputs[-2].float(), outputs[-1].last_hidden_state.float()
    num_prefix_tokens = keys.shape[1] - height * width
    if len(keys) != len(pixel_values) or num_prefix_tokens < 0:
        raise ValueError(
            f"`{model.name}` gave keys of shape {tuple(keys.shape)} for {len(pixel_values)} images of {height}×{width} patches; expected "
            "a key for each patch. A model that masks its input, as ViTMAE does, cannot be used."
        )
    if not key_bias and getattr(projection, "bias", None) is not None:
        keys = keys - projection.bias.float()
    return PatchFeatures(keys[:, num_prefix_tokens:], hidden[:, num_prefix_tokens:])


def cut_eigenvectors(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the second smallest generalised eigenvector `(B, N)`, fp64, of (D − W) y = λ D y for each image, of any sign and length,
    and whether it is unique, `(B,)` bool. Keys are `(B, N, C)`, finite, of any floating dtype and length; N is at least 3.

    W is 1 between patches whose keys have a cosine above 0.2, and 1e-5 otherwise; the diagonal matrix D has the sums of its rows. If
    the second eigenvalue is multiple (unconnected groups of patches of one size), the result is the projection of a fixed vector onto
    the eigenspace, the same in every run. It is zero if all patches are similar, or no two are.
    """
    if keys.device.type == "mps":
        keys = keys.cpu()  # Apple's GPUs have no fp64
    # Few enough images for the caches of a CPU, and enough to fill an accelerator.
    chunk = max(1, (2**19 if keys.device.type == "cpu" else 2**25) // keys.shape[1] ** 2)
    vectors, unique = zip(*map(_cut_eigenvectors, keys.split(chunk)), strict=True)
    return torch.cat(vectors), torch.cat(unique)


def _cut_eigenvectors(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    num_patches = keys.shape[1]
    keys = F.normalize(keys.float(), dim=-1)  # a norm may overflow fp16
    alike = keys @ keys.mT > TAU
    alike = alike & alike.mT  # the two roundings of a cosine may fall on different sides of the threshold

    # fp64: eigenvalues of weakly linked groups of patches differ by only 1e-5.
    num_alike = alike.sum(dim=-1)
    degree = num_alike.double() * (1 - WEAK_LINK) + num_patches * WEAK_LINK  # (B, N)
    inverse_root = degree.rsqrt()
    # With v = D^½ y the problem is the ordinary one of 1 − D^-½ W D^-½.
    laplacian = torch.where(alike, -1.0, -WEAK_LINK).double() * inverse_root.unsqueeze(1) * inverse_root.unsqueeze(2)
    laplacian.diagonal(dim1=1, dim2=2).add_(1)
    values, vectors = torch.linalg.eigh(laplacian)  # ascending; the first is 0
    eigenspace = values <= values[:, 1:2] * (1 + 1e-6)
    eigenspace[:, 0] = False

    start = torch.randn(num_patches, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coordinates = torch.where(eigenspace.unsqueeze(2), vectors.mT @ start.to(keys.device), 0.0)
    flat = (num_alike == num_patches).all(dim=-1) | (num_alike <= 1).all(dim=-1)
    cut = torch.where(flat.unsqueeze(1), 0.0, (vectors @ coordinates).squeeze(2))
    return cut * inverse_root, (eigenspace.sum(dim=1) == 1) & ~flat


def coarse_masks(eigenvectors: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Return the foreground `(B, h, w)`, bool, on the patch grid, from eigenvectors `(B, h·w)`: the patches on the seed's side of the
    mean that are connected to it (by 4 neighbours, as in the released code); none if all values are the same. The seed is the patch of
    the largest absolute value: the first in raster order of those within 1e-6 of it, so that rounding does not matter."""
    magnitude = eigenvectors.abs()
    seeds = (magnitude >= (1 - 1e-6) * magnitude.amax(dim=1, keepdim=True)).int().argmax(dim=1, keepdim=True)
    deviation = eigenvectors - eigenvectors.mean(dim=1, keepdim=True)
    foreground = deviation * deviation.gather(1, seeds).sign() > 1e-9 * magnitude.amax(dim=1, keepdim=True)
    foreground, seeds = foreground.unflatten(1, grid).cpu().numpy(), seeds.cpu().numpy()

    within_images = np.zeros((3, 3, 3), dtype=bool)
    within_images[1] = ndimage.generate_binary_structure(2, 1)
    components, _ = ndimage.label(foreground, within_images)
    of_seeds = np.take_along_axis(components.reshape(len(components), -1), seeds, axis=1)
    return foreground & (components == of_seeds[..., None])


def num_corners(mask: np.ndarray) -> int:
    """Number of corners of the image that are in a mask `(h, w)`, bool."""
    return int(mask[[0, 0, -1, -1], [0, -1, 0, -1]].sum())


def refine_mask(image: Image.Image, coarse: np.ndarray) -> np.ndarray:
    """Align a coarse mask with the edges of an RGB image: bilateral solver, threshold 0.5, holes filled, largest component. The result
    is `(H, W)`, bool, and may be empty."""
    filled = ndimage.binary_fill_holes(bilateral_solver(image, coarse) > 0.5)
    components, _ = ndimage.label(filled)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0  # the background
    return filled & (components == sizes.argmax())


def bilateral_solver(image: Image.Image, target: np.ndarray) -> np.ndarray:
    """Map `(H, W)`, fp64, about [0, 1]: close to `target`, and smooth between image pixels of similar position and colour.

    Parameters are those of TokenCut: a bilateral grid with cells of 16 pixels, 16 levels of luma and 8 of chroma;
    smoothness λ 256; confidence 0.999 everywhere; 25 steps of conjugate gradients with a Jacobi preconditioner, from
    the means of the cells. Unlike in the released code, luma and chroma are rounded to 8 bits, and cell numbers do not
    collide in images wider than 4064 pixels. The image is RGB, and the target `(H, W)` in [0, 1].

    Source: https://huggingface.co/papers/1511.03296
    """
    height, width = target.shape
    luma, *chroma = (channel.astype(np.int64) for channel in np.moveaxis(np.asarray(image.convert("YCbCr")), 2, 0))
    y, x = np.mgrid[:height, :width]
    cells = (y // 16, x // 16, luma // 16, chroma[0] // 8, chroma[1] // 8)
    # Each dimension starts with a free cell, so that the neighbour of a last cell is not the first cell of the next row.
    shape = [int(cell.max()) + 2 for cell in cells]
    numbers = np.ravel_multi_index([cell.ravel() + 1 for cell in cells], shape)
    vertices, vertex_of_pixel = np.unique(numbers, return_inverse=True)
    count = len(vertices)

    # Blur: [1 2 1] along each of the 5 dimensions, summed.
    rows, columns = [np.arange(count)], [np.arange(count)]
    for stride in np.cumprod([1, *shape[:0:-1]]):
        position = np.searchsorted(vertices, vertices + stride).clip(max=count - 1)
        (lower,) = np.nonzero(vertices[position] == vertices + stride)
        rows += [lower, position[lower]]
        columns += [position[lower], lower]
    weights = np.ones(sum(map(len, rows)))
    weights[:count] = 2 * len(shape)
    blur = sparse.csr_array((weights, (np.concatenate(rows), np.concatenate(columns))), shape=(count, count))

    # Bistochastisation: diagonal matrices such that Dn blur Dn has the row sums Dm, the pixels of each cell.
    mass = np.bincount(vertex_of_pixel, minlength=count).astype(np.float64)
    scale = np.ones(count)
    for _ in range(10):
        scale = np.sqrt(scale * mass / (blur @ scale))
    scaling = sparse.diags_array(scale)
    smoothness = sparse.diags_array(scale * (blur @ scale)) - scaling @ blur @ scaling

    confidence = 0.999 * mass
    data = 0.999 * np.bincount(vertex_of_pixel, target.ravel(), minlength=count)
    system = (256 * smoothness + sparse.diags_array(confidence)).tocsr()
    preconditioner = sparse.diags_array(1 / np.maximum(system.diagonal(), 1e-5))
    solution, _ = cg(system, data, x0=data / confidence, rtol=1e-5, maxiter=25, M=preconditioner)
    return solution[vertex_of_pixel].reshape(height, width)
