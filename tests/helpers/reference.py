"""Slow, independent reference of relevance maps and losses in NumPy, with the full matrix R and explicit loops.

It imports nothing of the package. Attentions and their gradients are its inputs.
"""

import numpy as np


def relevance_matrix(attentions, gradients):
    """R (T, T) of one image; attentions and gradients are lists of (h, T, T), first layer first."""
    tokens = attentions[0].shape[-1]
    matrix = np.eye(tokens)
    for attention, gradient in zip(attentions, gradients, strict=True):
        heads = []
        for head in range(len(attention)):
            heads.append(np.maximum(gradient[head] * attention[head], 0))
        averaged = sum(heads) / len(heads)
        matrix = matrix + averaged @ matrix
    return matrix


def upsample(grid, height, width):
    """Bilinear upsampling with half-pixel centres and clamped borders."""
    rows, columns = grid.shape
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            source_y = max((y + 0.5) * rows / height - 0.5, 0)
            source_x = max((x + 0.5) * columns / width - 0.5, 0)
            top, left = int(source_y), int(source_x)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            down, along = source_y - top, source_x - left
            upper = (1 - along) * grid[top, left] + along * grid[top, right]
            lower = (1 - along) * grid[bottom, left] + along * grid[bottom, right]
            result[y, x] = (1 - down) * upper + down * lower
    return result


def relevance_map(attentions, gradients, grid, image_size, read=None):
    """Map (H, W) in [0, 1] of what the head reads: `read` (T,) are weights of the tokens, the CLS token by default."""
    matrix = relevance_matrix(attentions, gradients)
    row = (matrix[0] if read is None else read @ matrix)[-grid[0] * grid[1] :]
    relevance = upsample(row.reshape(grid), *image_size)
    return (relevance - relevance.min()) / (relevance.max() - relevance.min())


def losses(relevance, mask, logits):
    """Background, foreground and confidence loss of one image, as released."""
    inverse = mask.copy()
    inverse[mask == 0] = 1
    inverse[mask == 1] = 0
    log_probabilities = logits - np.log(np.exp(logits).sum())
    return {
        "background_loss": np.mean((relevance * inverse) ** 2),
        "foreground_loss": np.mean((relevance * mask - mask) ** 2),
        "confidence_loss": -log_probabilities.max(),
    }
