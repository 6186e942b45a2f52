"""Sums over all workers, with TensorFlow's collectives."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from pipeline import console, errors
from pipeline.distributed import workers

# TensorFlow's errors when another worker is gone, does not answer, or never joined.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


class Communicator:
    """Adds up the numbers of all workers, which call the same methods in the same order.

    One worker computes each part of a sum, so all workers get exactly the same result.

    Attributes:
      worker: This process.
    """

    def __init__(self, worker: workers.Worker, *, timeout_secs: int):
        """Connects the workers; call it before anything else of TensorFlow.

        Raises:
          errors.InputError: a worker sees several GPUs.
          errors.LostWorkerError: a worker does not join in time, or this worker's port is taken.
        """
        self.worker, self._timeout_secs = worker, timeout_secs
        service = context.context().configure_coordination_service
        service(
            service_type="standalone",
            service_leader=f"/job:{worker.jobs[0][0]}/replica:0/task:0",
            cluster_register_timeout_in_ms=1000 * timeout_secs,
            heartbeat_timeout_in_ms=1000 * timeout_secs,
            shutdown_barrier_timeout_in_ms=0,
            coordinated_jobs=[
                coordination_config_pb2.CoordinatedJob(name=name, num_tasks=count)
                for name, count in worker.jobs
            ],
        )
        context.context().coordination_service.cluster_register_with_barrier = True
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=tf.distribute.experimental.CommunicationImplementation.RING
        )
        try:
            self._strategy = tf.distribute.MultiWorkerMirroredStrategy(
                communication_options=options
            )
        except tf.errors.OpError as error:
            raise errors.LostWorkerError(self._why_not_met(error, timeout_secs)) from error
        errors.require(
            self._strategy.num_replicas_in_sync == worker.count,
            "each worker must see one device: set CUDA_VISIBLE_DEVICES to one GPU for each process",
        )
        self._sums = {
            dtype: tf.function(self.total, [tf.TensorSpec([None], dtype)])
            for dtype in (tf.int64, tf.float64, tf.float32)
        }

    def total(self, numbers: tf.Tensor) -> tf.Tensor:
        """Returns the sum [N] over all workers' numbers [N], as an operation."""
        if tf.executing_eagerly():
            return self._sums[numbers.dtype](numbers)

        def add(own: tf.Tensor) -> tf.Tensor:
            # all_reduce rejects a tensor without a device (the result of a compiled function):
            # its destinations are empty. tf.identity places it on this worker's device.
            context_ = tf.distribute.get_replica_context()
            return context_.all_reduce("SUM", tf.identity(own))

        return self._strategy.run(add, [numbers])

    def sum(self, numbers: npt.ArrayLike) -> npt.NDArray[Any]:
        """Sums an array of int64, float64 or float32 over all workers.

        Raises:
          errors.LostWorkerError: another worker can't be reached.
        """
        own = np.asarray(numbers)
        if not own.size:  # TensorFlow's ring crashes on an empty tensor
            return own
        with self.reported(), self._limited():
            total = self._sums[tf.as_dtype(own.dtype)](tf.constant(own.ravel())).numpy()
        return np.asarray(total).reshape(own.shape)

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Re-raises TensorFlow's errors about a lost worker as errors.LostWorkerError."""
        try:
            yield
        except _LOST as error:
            raise errors.LostWorkerError(
                f"worker {self.worker.index} lost {self._others(error)}; start all workers again "
                "with the same command: they go on from the last checkpoint"
            ) from error

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """Ends the process if it waits too long for another worker.

        Nothing can interrupt TensorFlow, so another thread ends the process. Only the steps since
        the last checkpoint are lost.
        """
        timer = threading.Timer(self._timeout_secs, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        console.say(
            f"train: worker {self.worker.index} waited --peer_timeout_secs={self._timeout_secs} "
            "for a message of another worker; start all workers again with the same command: they "
            "go on from the last checkpoint",
            sys.stderr,
        )
        os._exit(errors.LostWorkerError.exit_code)

    def of_chief(self, numbers: npt.ArrayLike) -> npt.NDArray[Any]:
        """Broadcasts the chief's array to all workers."""
        own = np.asarray(numbers)
        return self.sum(own if self.worker.is_chief else np.zeros_like(own))

    def wait_for_all(self) -> None:
        """Waits without a time limit until all workers reach this call.

        Raises:
          errors.LostWorkerError: another worker can't be reached.
        """
        with self.reported():
            self._sums[tf.int64](tf.constant([0], tf.int64)).numpy()

    def bytes_of_chief(self, content: bytes) -> bytes:
        """Broadcasts the chief's bytes to all workers."""
        (size,) = self.of_chief([len(content)]).tolist()
        own = content if self.worker.is_chief else bytes(size)
        numbers = np.frombuffer(own + bytes(-size % 8), np.int64)
        return self.of_chief(numbers).tobytes()[:size]

    def from_chief(self, variables: Iterable[tf.Variable]) -> None:
        """Broadcasts the chief's variables to all workers, bit for bit."""
        held = list(variables)
        arrays = [variable.numpy() for variable in held]
        content = self.bytes_of_chief(b"".join(array.tobytes() for array in arrays))
        for variable, array in zip(held, arrays, strict=True):
            own, content = content[: array.nbytes], content[array.nbytes :]
            variable.assign(np.frombuffer(own, array.dtype).reshape(array.shape))

    def _why_not_met(self, error: tf.errors.OpError, timeout_secs: int) -> str:
        if "server" in str(error) and not isinstance(error, _LOST[:4]):
            return (
                f"worker {self.worker.index} can't listen at its address in TF_CONFIG: another "
                "program has its port"
            )
        return (
            f"worker {self.worker.index} waited --peer_timeout_secs={timeout_secs} for "
            f"{self._others(error)}; see what it says, and whether its address in TF_CONFIG can be "
            "reached from here"
        )

    def _others(self, error: tf.errors.OpError) -> str:
        """The workers that a TensorFlow error names."""
        sizes = dict(self.worker.jobs)
        found = {
            int(task) + (sizes.get("chief", 0) if job == "worker" else 0)
            for job, task in re.findall(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)", str(error))
        }
        others = [f"worker {number}" for number in sorted(found - {self.worker.index})]
        return ", ".join(others) or "another worker"
