"""A TensorBoard-instrumented training pipeline for TensorFlow."""

__version__ = "0.1.0"
