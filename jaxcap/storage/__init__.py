"""Models and programs on disk: checkpoints, manifests, runs, published files, the program cache."""
