"""Models and programs on disk: checkpoints, manifests, published files, the program cache."""
