"""Files, stages, images, options, processes, privacy, and the environment of a run."""
