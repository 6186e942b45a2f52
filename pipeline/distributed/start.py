"""Imports and starts TensorFlow in one of several processes."""

import os
from typing import Any

from pipeline import tf_runtime
from pipeline.distributed import workers


def import_tensorflow(worker: workers.Worker, *, timeout_secs: int) -> Any:
    """Imports and starts TensorFlow, and connects to the other workers, if there are any.

    TensorFlow is set to notice a lost worker at once instead of after a minute. Its long log about
    that is suppressed, as the communicator reports it in one line.

    Returns:
      The communicator; None for one worker.
    """
    if worker.count == 1:
        tf_runtime.import_tensorflow()
        return None
    os.environ.setdefault("GRPC_FAIL_FAST", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def meet() -> Any:
        from pipeline.distributed import communicator

        return communicator.Communicator(worker, timeout_secs=timeout_secs)

    return tf_runtime.import_tensorflow(meet)
