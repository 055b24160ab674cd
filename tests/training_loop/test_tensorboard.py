"""TensorBoard reads a log that was written in parts as one without repetition."""

import os

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from vim_tf.training_loop import tensorboard


def read(folder, tag):
    """[(step, value)] of a tag, as TensorBoard shows it."""
    events = EventAccumulator(str(folder))
    events.Reload()
    found = {event.step: [] for event in events.Tensors(tag)}
    for event in events.Tensors(tag):
        found[event.step].append(float(tf.make_ndarray(event.tensor_proto)))
    return found


def write(writer, steps, value):
    for step in steps:
        tensorboard.write(writer, {"step": step, "kind": "train", "nats": value})
    writer.flush()


@pytest.mark.parametrize("in_one_file", [True, False])
def test_what_is_repeated_is_forgotten(tmp_path, in_one_file):
    """A rollback goes on in its file; a run that resumes begins another."""
    writer = tf.summary.create_file_writer(str(tmp_path))
    write(writer, [2, 4, 6, 8], 1)
    if not in_one_file:
        writer.close()
        (file,) = tmp_path.iterdir()
        # Files are read in the order of their names, which begin with the time in seconds.
        os.rename(file, tmp_path / "events.out.tfevents.1000000000.host.1.0.v2")
        writer = tf.summary.create_file_writer(str(tmp_path))
    tensorboard.forget_from(writer, 5)
    write(writer, [6, 8, 10], 2)
    writer.close()
    assert read(tmp_path, "nats") == {2: [1], 4: [1], 6: [2], 8: [2], 10: [2]}


def test_without_it_steps_are_doubled(tmp_path):
    """So that the test above can fail."""
    writer = tf.summary.create_file_writer(str(tmp_path))
    write(writer, [2, 4], 1)
    write(writer, [4], 2)
    writer.close()
    assert read(tmp_path, "nats") == {2: [1], 4: [1, 2]}
