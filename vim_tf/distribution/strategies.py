"""What TensorFlow computes on: its devices, and the strategy that spreads work over them."""

import keras
import tensorflow as tf

import vim_tf
from vim_tf.distribution.cores import count_cores
from vim_tf.errors import UserError


def make_strategy(settings):
    """Returns a `tf.distribute` strategy; call it before TensorFlow is used.

    Args:
        settings: a `TrainingConfig`, a `LinearProbeExperiment`, or arguments of
            `command_line.add_strategy`. Their `strategy`
            is "one_device"; "mirrored", which takes every GPU, and without one `cpu_replicas`
            logical CPUs, which also use the cores of a CPU better than one replica does under XLA;
            "multi_worker", which takes those of every machine that TF_CONFIG names and waits for
            them; or "tpu", which takes all cores of the TPU called `tpu`. With `deterministic`
            TensorFlow takes operations whose results are the same each time.

    Raises:
        UserError: the workers of TF_CONFIG do not come together, or there is no such TPU.
    """
    if getattr(settings, "deterministic", False):
        tf.config.experimental.enable_op_determinism()
    if settings.strategy == "one_device":
        return tf.distribute.OneDeviceStrategy("GPU:0" if _gpus() else "CPU:0")
    if settings.strategy == "multi_worker":
        return _connect_workers()
    if settings.strategy == "tpu":
        return _connect_tpu(settings.tpu)
    if _gpus():
        return tf.distribute.MirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    replicas = settings.cpu_replicas
    if len(tf.config.get_logical_device_configuration(cpu) or [None]) != replicas:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * replicas
        )
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def _connect_workers():
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise UserError(
            f"the workers of TF_CONFIG do not come together: {error.message.splitlines()[0]}; "
            "start the same command on every machine, on addresses that the others reach"
        ) from None


def _connect_tpu(name):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name)
    except (tf.errors.OpError, OSError, ValueError) as error:
        reason = (getattr(error, "message", None) or str(error)).splitlines()[0][:200]
        raise UserError(
            f"strategy is tpu, tpu is {name}, and no TPU is found there ({reason}); "
            "on a TPU VM give local, elsewhere the TPU's name or grpc://HOST:PORT, and install the "
            "extra: pip install vim-tf[tpu]"
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def _gpus():
    return tf.config.list_physical_devices("GPU")


def describe_devices(strategy):
    """Returns the start-up line: versions, devices, strategy and replicas."""
    gpus = _gpus()
    tpus = tf.config.list_logical_devices("TPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
    ]
    found = ", ".join([f"{len(tpus)} TPU cores"] * bool(tpus) + names)
    if not found:
        found = f"CPU with {count_cores()} cores, no GPU, no TPU"
    replicas = strategy.num_replicas_in_sync
    return (
        f"vim_tf {vim_tf.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}; "
        f"found {found}; {type(strategy).__name__}, {replicas} replica{'s' * (replicas > 1)}"
    )
