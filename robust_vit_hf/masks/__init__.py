"""Foreground masks for images that have none: from a ViT's features alone (`tokencut`), from the names of the classes
(`grounded`), or from annotations in COCO's format (`coco`).

A mask maker is called with images and their rows, and returns a `MaskResult` for each.
"""
