"""The page of `robust-vit app`: two models side by side, on images of the user's and of evaluation sets."""
