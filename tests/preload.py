"""What a process that tests are forked from has imported: TensorFlow, not started, and the rest."""

import gc
import os
import sys

from absl import app

from pipeline import tf_runtime

PATH = [os.path.abspath(each) for each in sys.path]  # before any test has added to it

gc.disable()
with tf_runtime.importing():
    from pipeline.run import trainer  # noqa: F401
# TensorFlow looks for devices when it is imported, or in app.run where that comes later, as here.
app._init_callbacks.clear()
gc.freeze()
gc.enable()
