"""The page of `robust-vit app`: two models side by side, on the user's images and on evaluation sets."""
