"""Models, masks, images and pictures that experiments and documents need."""
