"""Progress of a run: a bar on a terminal, plain lines elsewhere, and a line in metrics.jsonl."""

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from tqdm import tqdm

from vim_tf.runs.run import Run


class Reporter:
    """Writes the numbers that the loop measures to the terminal and to the run.

    Args:
        run: the run's folder.
        first_step: the step at which this process began.
        steps: the step at which the run ends.
        batch_size: global batch size, for images a second.
        shown: names of the numbers that the progress line shows.
        stream: where to write; standard error by default.
    """

    def __init__(
        self,
        run: Run,
        first_step: int,
        steps: int,
        batch_size: int,
        shown: Sequence[str],
        stream: TextIO | None = None,
    ) -> None:
        self.run = run
        self.step = first_step
        self.steps = steps
        self.batch_size = batch_size
        self.shown = shown
        self.stream = stream or sys.stderr
        self.started = self.reported = time.monotonic()
        self.first_step = first_step
        self.bar = None
        if self.stream.isatty():
            self.bar = tqdm(
                total=steps, initial=first_step, file=self.stream, unit="step", dynamic_ncols=True
            )

    def train(self, step: int, values: dict[str, float]) -> None:
        """Reports the means of the steps since the last report."""
        now = time.monotonic()
        rate = (step - self.step) * self.batch_size / max(now - self.reported, 1e-9)
        values = {**values, "images_per_second": rate}
        self.run.append_metrics(step, "train", values)
        text = f"{self._format(values)}  {rate:.1f} img/s"
        if self.bar:
            with contextlib.suppress(OSError):  # the terminal was closed, and the run saves
                self.bar.update(step - self.step)
                self.bar.set_postfix_str(text)
        else:
            per_step = (now - self.started) / (step - self.first_step)
            left = _clock(per_step * (self.steps - step))
            self.say(f"step {step}/{self.steps}  {text}  {left} left")
        self.step, self.reported = step, now

    def _format(self, values: dict[str, float]) -> str:
        return "  ".join(f"{name} {values[name]:.4g}" for name in self.shown if name in values)

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Reports an evaluation; its time does not count as training."""
        self.run.append_metrics(step, "evaluation", values)
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.say(f"evaluation at step {step}:  {numbers}")
        self.reported = time.monotonic()

    def say(self, text: str) -> None:
        """Writes one line, above the bar if there is one."""
        with contextlib.suppress(OSError):  # the terminal was closed
            if self.bar:
                self.bar.write(text, file=self.stream)
            else:
                self.stream.write(text + "\n")
                self.stream.flush()

    def restart(self, step: int) -> None:
        """Continues from an earlier step."""
        self.step = self.first_step = step
        self.started = self.reported = time.monotonic()
        if self.bar:
            self.bar.n = step
            self.bar.refresh()

    def close(self) -> None:
        """Ends the bar."""
        if self.bar:
            with contextlib.suppress(OSError):
                self.bar.close()


def _clock(seconds: float) -> str:
    """HH:MM:SS; the hours can have more digits."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
