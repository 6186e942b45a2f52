"""Training: models, losses, optimizers, the training step and the training loops."""
