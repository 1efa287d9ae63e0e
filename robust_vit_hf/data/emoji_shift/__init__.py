"""emoji-shift: a small benchmark with all of the paper's distribution shifts, made of images from pip packages.

`images.load_split` composes the images, `model.load_biased_model` loads a pretrained ViT with a background shortcut,
removed by the default run of `robust-vit train`.
"""
