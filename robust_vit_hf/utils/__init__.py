"""Files, images, options, processes, public names, and the environment of a run."""
