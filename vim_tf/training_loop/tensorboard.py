"""TensorBoard's log of a run that goes on: it holds no step twice."""

import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


def forget_from(writer: tf.summary.SummaryWriter, step: int) -> None:
    """Makes TensorBoard forget everything of an earlier process from a step on.

    Its files only grow, so the log says that a session starts at this step. TensorBoard then drops
    what it has read of this step and of later ones.

    Args:
        writer: the writer of the log.
        step: the first step to forget.
    """
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    event = tf.compat.v1.Event(wall_time=time.time(), step=step, session_log=start)
    for _ in range(2):  # TensorBoard forgets nothing at the first start that it reads of a log
        # tf.summary has no function for events that are no summaries.
        tf.raw_ops.ImportEvent(writer=writer._resource, event=event.SerializeToString())
    writer.flush()


def write(writer: tf.summary.SummaryWriter, record: Mapping[str, Any]) -> None:
    """Writes the numbers of a record of metrics.jsonl."""
    with writer.as_default(record["step"]):
        for name, value in record.items():
            if name not in ("step", "kind", "images_per_second"):
                tf.summary.scalar(name, value)
