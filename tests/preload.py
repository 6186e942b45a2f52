"""Imports for the process that tests fork from: the package and TensorFlow, not started."""

import gc
import os
import sys

from absl import app

from pipeline import tf_runtime

PATH = [os.path.abspath(each) for each in sys.path]  # before any test has added to it

gc.disable()
with tf_runtime.importing():
    from pipeline.run import trainer  # noqa: F401
# TensorFlow looks for devices at its import, or in app.run if that comes later, as here.
app._init_callbacks.clear()
gc.freeze()
gc.enable()
