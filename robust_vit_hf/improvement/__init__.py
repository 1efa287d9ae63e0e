"""From a model that decides by the background to a better one, on your own images."""
