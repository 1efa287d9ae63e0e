"""Foreground masks for images without masks: from only a ViT's features (`tokencut`), from class names (`grounded`),
or from COCO annotations (`coco`).

Mask makers take images and their rows, and return a `MaskResult` for each.
"""
