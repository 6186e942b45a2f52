"""A training run: its directory, checkpoints, signals and export, and the trainer."""
