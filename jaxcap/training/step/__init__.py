"""One training step, pure: losses, optimizer, state and `train_step`. Read `train_step` first."""
