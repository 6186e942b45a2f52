"""A TensorBoard-instrumented training pipeline for TensorFlow."""

import os

# Threads of numpy's BLAS cost ten times what they save where tables are read, block by block; this
# must be set before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
