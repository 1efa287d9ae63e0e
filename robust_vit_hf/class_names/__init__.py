"""Names of classes: those of ImageNet, and labels mapped by name between a dataset and a model."""
