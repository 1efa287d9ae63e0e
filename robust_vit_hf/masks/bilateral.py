"""The bilateral solver with SciPy's sparse matrices, since OpenCV's wheels lack the solver."""

import numpy as np
from PIL import Image
from scipy import sparse
from scipy.sparse.linalg import cg


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
    # A free cell at the start of each dimension, so that a last cell's neighbour is not the next row's first cell.
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
