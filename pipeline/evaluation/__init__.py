"""Evaluation: loss and metrics, early stopping, and least squares as a reference."""
