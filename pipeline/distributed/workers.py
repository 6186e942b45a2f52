"""The workers that train together, as listed in TF_CONFIG.

Kubernetes operators, Ray Train and cloud trainers set TF_CONFIG, and tf.distribute reads it:

  {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}
"""

import contextlib
import dataclasses
import json
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import errors

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)


Floats = npt.NDArray[np.float64]
Total = Callable[[Floats], Floats]  # adds up the numbers [N] of all workers


def alone(numbers: Floats) -> Floats:
    """The Total of a process that trains alone."""
    return numbers


@dataclasses.dataclass(frozen=True)
class Worker:
    """One of the processes that train together; by default the only one."""

    index: int = 0  # 0 is the chief
    count: int = 1
    jobs: tuple[tuple[str, int], ...] = ()  # names and sizes of TF_CONFIG's jobs, the chief's first

    @property
    def is_chief(self) -> bool:
        """Whether this process records, saves and exports."""
        return self.index == 0

    def share(self, size: int) -> "Share":
        """This worker's share of `size` positions; the workers' shares differ by at most one."""
        each, rest = divmod(size, self.count)
        return Share(self.index * each + min(self.index, rest), each + (self.index < rest))

    def part(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """This worker's share of rows [N], spread evenly over all of them."""
        return rows[self.index :: self.count]


class Share(NamedTuple):
    """Consecutive positions."""

    first: int
    size: int


def from_environment() -> Worker:
    """Returns the worker that TF_CONFIG says this process is.

    Raises:
      errors.InputError: TF_CONFIG is malformed.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    return _parsed(text) if text else Worker()


def environment(addresses: list[str], index: int) -> dict[str, str]:
    """The environment variables of one of the workers at these addresses."""
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return {"TF_CONFIG": json.dumps(config)}


def free_addresses(count: int) -> list[str]:
    """Returns addresses of this machine with ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def _parsed(text: str) -> Worker:
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        kind, index = str(task["type"]), int(task["index"])
        sizes = {str(job): len(list(addresses)) for job, addresses in cluster.items()}
        all_addresses = [str(each) for addresses in cluster.values() for each in addresses]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _wrong(f"it can't be read: {type(error).__name__} {error}", text) from error
    unknown = sizes.keys() - {"chief", "worker"}
    if unknown:
        raise _wrong(f"only jobs chief and worker are known; received {sorted(unknown)}", text)
    if sizes.get("chief", 0) > 1:
        raise _wrong("there may be one chief only", text)
    if not 0 <= index < sizes.get(kind, 0):
        raise _wrong(f"the task {kind} {index} is not in the cluster", text)
    without_port = [a for a in all_addresses if not a.rpartition(":")[2].isdigit()]
    if without_port or len(set(all_addresses)) < len(all_addresses):
        raise _wrong("each worker needs an address host:port of its own", text)
    jobs = tuple((job, sizes[job]) for job in ("chief", "worker") if sizes.get(job))
    before = sizes.get("chief", 0) if kind == "worker" else 0
    return Worker(before + index, sum(sizes.values()), jobs)


def _wrong(problem: str, text: str) -> errors.InputError:
    received = " ".join(text.split())
    return errors.InputError(
        f"TF_CONFIG: {problem}; received {received[:200]}; expected something like {_EXAMPLE}"
    )
