"""Model, loss, training step and training loops, and the evaluation of the model."""
