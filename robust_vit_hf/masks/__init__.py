"""Foreground masks for images without masks. A mask maker takes images and their rows, and returns a `MaskResult` for each."""
