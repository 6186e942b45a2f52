"""Stop requests by SIGINT, SIGTERM, and SIGHUP unless it is ignored."""

import signal
import sys
import threading
import types
from typing import Any

from pipeline import console, errors

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """While entered, remembers a signal until a checkpoint is saved; a second one acts as before.

    Attributes:
      received: The number of the signal that this process has received.
      agreed: The signal that several processes agreed to follow; None for a single process.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.agreed: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        is_main = threading.current_thread() is threading.main_thread()  # no other gets signals
        for number in SIGNALS if is_main else ():
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        """Whether training should stop."""
        return bool(self.received if self.agreed is None else self.agreed)

    def announce(self) -> None:
        """Prints, after a signal, that a checkpoint follows; a handler can't print safely."""
        if self.received is not None:
            console.say("\nSaving a checkpoint; press Ctrl-C again to quit at once", sys.stderr)

    def check(self, how_to_resume: str) -> None:
        """Raises errors.StoppedError if training should stop."""
        number = self.received if self.agreed is None else self.agreed
        if number:
            raise errors.StoppedError(number, how_to_resume)

    def _remember(self, number: int, _: types.FrameType | None) -> None:
        self.received = number
        for each, handler in self._before.items():
            signal.signal(each, handler)
