"""Server-side batching: one run answers the requests that wait at the same time."""

import collections
import queue
import threading
import time
from concurrent.futures import Future

import numpy as np


class BatcherFull(Exception):
    """Too many requests are already waiting."""


class Batcher:
    """Joins the requests of one signature along the first dimension and splits the answers.

    Args:
        run: {input: array [rows, ...]} -> {output: array [rows, ...]}.
        max_rows: largest number of rows of a joined batch.
        wait_seconds: how long the first request of a batch waits for others.
        max_waiting: largest number of requests in the queue.
    """

    def __init__(self, run, max_rows, wait_seconds, max_waiting):
        self._run = run
        self._max_rows = max_rows
        self._wait_seconds = wait_seconds
        self._queue = queue.Queue(max_waiting)
        self.batches = collections.deque(maxlen=1000)
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, inputs, rows):
        """Returns the answer to `rows` rows of inputs; raises the errors of the run."""
        future = Future()
        try:
            self._queue.put_nowait((inputs, rows, future))
        except queue.Full:
            raise BatcherFull("too many requests wait; try again later") from None
        return future.result()

    def _work(self):
        held = None
        while True:
            batch, held = self._gather(held or self._queue.get())
            self.batches.append([rows for _, rows, _ in batch])
            try:
                answers = self._answer(batch)
            except Exception as error:  # every request of the batch gets the error
                for _, _, future in batch:
                    future.set_exception(error)
            else:
                for (_, _, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)

    def _gather(self, first):
        """Returns (the requests of the next batch, a request that did not fit or None)."""
        batch, rows = [first], first[1]
        end = time.monotonic() + self._wait_seconds
        while rows < self._max_rows:
            try:
                request = self._queue.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                break
            if rows + request[1] > self._max_rows:
                return batch, request
            batch.append(request)
            rows += request[1]
        return batch, None

    def _answer(self, batch):
        names = batch[0][0]
        joined = {name: np.concatenate([inputs[name] for inputs, _, _ in batch]) for name in names}
        ends = np.cumsum([rows for _, rows, _ in batch])
        outputs = {name: np.split(value, ends[:-1]) for name, value in self._run(joined).items()}
        return [{name: parts[i] for name, parts in outputs.items()} for i in range(len(batch))]
