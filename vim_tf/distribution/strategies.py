"""The devices of TensorFlow, and the strategy that distributes work over them."""

from typing import Any

import keras
import tensorflow as tf

import vim_tf
from vim_tf.config.experiments import LinearProbeExperiment
from vim_tf.config.sections import TrainingConfig
from vim_tf.distribution.cores import count_cores
from vim_tf.errors import UserError
from vim_tf.messages import reason_of


def make_strategy(
    strategy: str = "one_device",
    cpu_replicas: int = 1,
    tpu: str = "local",
    deterministic: bool = False,
) -> tf.distribute.Strategy:
    """Returns a `tf.distribute` strategy; call it before TensorFlow is used.

    Args:
        strategy: "one_device"; "mirrored" for every GPU, or without a GPU for `cpu_replicas`
            logical CPUs, which under XLA use the cores better than one replica; "multi_worker" for
            the devices of every machine that TF_CONFIG names, for which it waits; or "tpu" for all
            cores of a TPU.
        cpu_replicas: number of logical CPUs of "mirrored" without a GPU.
        tpu: name of the TPU.
        deterministic: whether to use only operations with the same results each time.

    Raises:
        UserError: the workers of TF_CONFIG cannot connect, or there is no such TPU.
    """
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if strategy == "one_device":
        return tf.distribute.OneDeviceStrategy("GPU:0" if _gpus() else "CPU:0")
    if strategy == "multi_worker":
        return _connect_workers()
    if strategy == "tpu":
        return _connect_tpu(tpu)
    if _gpus():
        return tf.distribute.MirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or [None]) != cpu_replicas:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * cpu_replicas
        )
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(cpu_replicas)])


def strategy_of(settings: TrainingConfig | LinearProbeExperiment) -> tf.distribute.Strategy:
    """Returns the strategy of a `TrainingConfig` or a `LinearProbeExperiment`."""
    names = ("strategy", "cpu_replicas", "tpu", "deterministic")
    found = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    return make_strategy(**found)


def _connect_workers() -> tf.distribute.Strategy:
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise UserError(
            f"the workers of TF_CONFIG do not come together: {reason_of(error)}; "
            "start the same command on every machine, on addresses that the others reach"
        ) from None


def _connect_tpu(name: str) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name)
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise UserError(
            f"strategy is tpu, tpu is {name}, and no TPU is found there ({reason_of(error)}); "
            "on a TPU VM give local, elsewhere the TPU's name or grpc://HOST:PORT, and install the "
            "extra: pip install -e '.[tpu]' in the clone"
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def _gpus() -> list[Any]:
    return tf.config.list_physical_devices("GPU")


def has_accelerator() -> bool:
    """Returns whether there is a GPU or a TPU."""
    return bool(_gpus() or tf.config.list_logical_devices("TPU"))


def describe_devices(strategy: tf.distribute.Strategy) -> str:
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
