"""emoji-shift: a small benchmark with every distribution shift of the paper, made of images from pip packages.

`images.load_split` composes the images, `model.load_biased_model` loads a pretrained ViT with a background shortcut, which
the default run of `robust-vit train` removes.
"""
