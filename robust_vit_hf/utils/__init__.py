"""Files, images, options, processes, publishable names, and the environment of a run."""
