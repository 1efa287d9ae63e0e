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
    log_probabilities = logits - np.log(np.exp(logits).sum())
    return {
        "background_loss": np.mean((relevance * background(mask)) ** 2),
        "foreground_loss": np.mean((relevance * mask - mask) ** 2),
        "confidence_loss": -log_probabilities.max(),
    }


def background(mask):
    """Background of a mask as released: fractional values stay."""
    inverse = mask.copy()
    inverse[mask == 0] = 1
    inverse[mask == 1] = 0
    return inverse


def pixel_gradient_losses(gradients, mask):
    """Background losses of input gradients (C, H, W) of one image: of Eq. 9 and Eq. 10, and of the released GradMask."""
    total, count = 0.0, 0
    for channel in gradients:
        for gradient, outside in zip(channel.flatten(), background(mask).flatten(), strict=True):
            total += (gradient * outside) ** 2
            count += 1
    return {"gradmask": total**0.5, "rrr": total, "gradmask released": total / count}


def energy(relevance, mask):
    """One minus the share of relevance (H, W) inside the mask of one image."""
    inside = sum(value * share for value, share in zip(relevance.flatten(), mask.flatten(), strict=True))
    return 1 - inside / sum(relevance.flatten())


def cross_entropies(relevance, mask, region):
    """Background and foreground loss of Concept-Guided Fine-Tuning of one image: binary cross-entropy of R ⊙ (1 − M) with 0 and
    of R ⊙ M with M, over the pixels of the region or of the image."""
    background_loss = foreground_loss = 0.0
    for value, inside in zip(relevance.flatten().clip(1e-6, 1 - 1e-6), mask.flatten(), strict=True):
        if inside:
            foreground_loss -= np.log(value)
        else:
            background_loss -= np.log(1 - value)
    pixels = (np.sum(mask == 0), np.sum(mask == 1)) if region else (mask.size, mask.size)
    return background_loss / pixels[0], foreground_loss / pixels[1]
