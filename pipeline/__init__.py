"""A TensorBoard-instrumented training pipeline for TensorFlow."""

import os

# numpy's BLAS threads cost ten times what they save when a table is read block by block. This must
# be set before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
