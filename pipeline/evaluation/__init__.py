"""Evaluation: the model's loss and metrics, what they decide, and what could be reached at best."""
