"""One training step as pure functions. Read `train_step` first."""
