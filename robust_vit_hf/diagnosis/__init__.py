"""Whether your own model decides by the background of your own images."""
