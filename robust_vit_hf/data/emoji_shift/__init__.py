"""emoji-shift: a small benchmark with all of the paper's distribution shifts, made of images from pip packages.

`splits.load_split` composes the images. `models.emoji_shift_model.load_biased_model` loads a pretrained ViT with a background
shortcut, which the default run of `robust-vit train` removes.
"""
