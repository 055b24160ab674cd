"""What TensorFlow found to compute on."""

import os

import keras
import tensorflow as tf

import vim_tf


def describe_devices(strategy):
    """Returns the start-up line: versions, devices, strategy and replicas."""
    gpus = tf.config.list_physical_devices("GPU")
    tpus = tf.config.list_logical_devices("TPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
    ]
    found = ", ".join([f"{len(tpus)} TPU cores"] * bool(tpus) + names)
    if not found:
        found = f"CPU with {_cores()} cores, no GPU, no TPU"
    replicas = strategy.num_replicas_in_sync
    return (
        f"vim_tf {vim_tf.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}; "
        f"found {found}; {type(strategy).__name__}, {replicas} replica{'s' * (replicas > 1)}"
    )


def _cores():
    """Cores that this process may use, where the system can tell."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
