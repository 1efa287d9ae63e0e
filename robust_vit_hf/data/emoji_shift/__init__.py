"""emoji-shift: a small benchmark with all of the paper's distribution shifts, made of images from pip packages.

`models.emoji_shift_model.load_biased_model` loads a pretrained ViT with a background shortcut.
"""
