"""A TensorBoard-instrumented training pipeline for TensorFlow.

On the command line, each with --help:
  python -m pipeline.train    trains a model and shows in TensorBoard how
  python -m pipeline.predict  predicts for a table with an exported model
  python -m pipeline.sweep    trains every combination of some settings, and compares them
  python -m pipeline.watch    starts TensorBoard on a run, or on a directory of runs
  python -m pipeline.launch   trains with several processes of this machine

From Python, for example in a notebook:
  from pipeline import predict, sweep, train, watch
  result = train.train(epochs=100)          each flag is a keyword; see help(train.train)
  predict.load(result.directory).predict(x)
  sweep.sweep(learning_rate=[0.1, 0.01])
  watch.show("logs")
"""

import os

# numpy's BLAS threads cost ten times what they save when a table is read block by block. This must
# be set before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
