"""emoji-shift: a small ImageNet with every distribution shift of the paper, made of images that come in pip packages.

`images.load_split` composes the images, `model.load_biased_model` gives the pretrained ViT with a background shortcut that
the default run of `robust-vit train` mends.
"""
