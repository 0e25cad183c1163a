"""The progress display of a run: a bar on a terminal, plain lines elsewhere."""
import sys
import time

from tqdm import tqdm


class Progress:
    """One epoch's progress on standard error: images per second, the loss terms, and the time to the end of the run.

    Args:
        title: the text in front, such as "epoch 3/240".
        n_steps: steps of the epoch.
        first_step: number of them that an interrupted run has done already.
        epochs_left: epochs after this one, for the estimate of the time to the end of the run.
        every: steps between two readings of the losses. Each reading waits for the device.
    """

    def __init__(self, title, n_steps, *, first_step=0, epochs_left=0, every=100):
        self.title, self.n_steps, self.step = title, n_steps, first_step
        self.first_step, self.epochs_left, self.every = first_step, epochs_left, every
        self.images, self.start = 0, time.perf_counter()
        self.on_terminal = sys.stderr.isatty()
        self.bar = tqdm(total=n_steps, initial=first_step, desc=title, leave=False, disable=not self.on_terminal)

    def advance(self, n_images, read):
        """Counts a step of `n_images` images. Every `every` steps, and at the last one, it shows the averages so far.

        read: () -> {name: average}, such as Meters.read.
        """
        self.step += 1
        self.images += n_images
        self.bar.update()
        if self.step % self.every and self.step < self.n_steps:
            return
        losses = " ".join(f"{key} {value:.4g}" for key, value in read().items())
        text = f"{self.images / self.seconds():.0f} img/s {losses} left {_clock(self._seconds_left())}"
        if self.on_terminal:
            self.bar.set_postfix_str(text)
        else:
            print(f"{self.title} [{self.step}/{self.n_steps}] {text}", file=sys.stderr, flush=True)

    def seconds(self):
        """Seconds since this epoch, or the rest of it after an interruption, began."""
        return time.perf_counter() - self.start

    def close(self):
        self.bar.close()

    def _seconds_left(self):
        per_step = self.seconds() / (self.step - self.first_step)
        return per_step * (self.n_steps - self.step + self.epochs_left * self.n_steps)


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
