"""Signals that ask a run to save and stop."""
import signal


class Interrupted(Exception):
    """A signal asked the run to save and stop."""


class StopSignal:
    """Turns SIGTERM and SIGINT into a flag that the loops look at between two steps.

    Use as a context manager; `signal` is the number received, or None. A second SIGINT ends the process at once.
    """

    signal = None

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number

    def check(self):
        """Raises Interrupted once a signal has come."""
        if self.signal is not None:
            raise Interrupted
