import os
import urllib.error

import keras
import pytest
import tensorflow as tf

import vim_tf
from vim_tf.config.experiments import LinearProbeExperiment
from vim_tf.config.sections import TrainingConfig
from vim_tf.distribution import strategies
from vim_tf.distribution.strategies import describe_devices, make_strategy, strategy_of
from vim_tf.errors import UserError


def test_one_device(two_replicas):
    one = make_strategy()
    assert type(one) is tf.distribute.OneDeviceStrategy
    assert one.num_replicas_in_sync == 1


def test_determinism_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    strategy_of(TrainingConfig())
    assert not asked
    strategy_of(TrainingConfig(deterministic=True))
    assert asked


def test_mirrored_takes_logical_cpus(monkeypatch):
    """Checks its arguments only: a second MirroredStrategy would break that of this process."""
    asked = []
    monkeypatch.setattr(
        tf.distribute, "MirroredStrategy", lambda devices=None: asked.append(devices)
    )
    strategy_of(TrainingConfig(strategy="mirrored", cpu_replicas=2))
    assert asked == [["CPU:0", "CPU:1"]]
    monkeypatch.setattr(strategies, "_gpus", lambda: ["GPU"])
    strategy_of(TrainingConfig(strategy="mirrored"))
    assert asked[1] is None


def test_a_tpu_takes_its_name(monkeypatch):
    """Checks its arguments only: there is no TPU here."""
    resolvers = tf.distribute.cluster_resolver.TPUClusterResolver
    monkeypatch.setattr(resolvers, "connect", staticmethod(lambda name: ("resolver", name)))
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: ("strategy", resolver))
    for settings in (TrainingConfig, LinearProbeExperiment):
        made = strategy_of(settings(strategy="tpu", tpu="mine"))
        assert made == ("strategy", ("resolver", "mine"))


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.NotFoundError(None, None, "TPUs not found in the cluster.\nMore."),
        urllib.error.URLError("Name or service not known"),
        ValueError("Please provide a TPU Name to connect to."),
    ],
)
def test_a_tpu_that_is_not_there(monkeypatch, error):
    """TensorFlow raises these errors here for local, a name, and none."""

    def connect(name):
        raise error

    resolvers = tf.distribute.cluster_resolver.TPUClusterResolver
    monkeypatch.setattr(resolvers, "connect", staticmethod(connect))
    with pytest.raises(
        UserError, match=r"^strategy is tpu, tpu is local, and no TPU is found there \("
    ):
        strategy_of(TrainingConfig(strategy="tpu"))


def test_versions_devices_and_replicas_are_named(two_replicas):
    one = describe_devices(tf.distribute.OneDeviceStrategy("CPU:0"))
    for version in (vim_tf.__version__, tf.__version__, keras.__version__):
        assert version in one
    assert "OneDeviceStrategy, 1 replica" in one
    assert "1 replicas" not in one
    assert "\n" not in one
    assert "MirroredStrategy, 2 replicas" in describe_devices(two_replicas)


def test_a_gpu_is_called_by_its_name(monkeypatch):
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu, gpu])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"device_name": "Grace 1"}
    )
    line = describe_devices(tf.distribute.get_strategy())
    assert "found Grace 1, Grace 1;" in line
    assert "no GPU" not in line


def test_the_absence_of_a_gpu_is_said(monkeypatch):
    """On macOS too, where the cores of a process are not known."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    line = describe_devices(tf.distribute.get_strategy())
    assert f"found CPU with {cores} cores, no GPU, no TPU;" in line
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    line = describe_devices(tf.distribute.get_strategy())
    assert f"CPU with {os.cpu_count()} cores" in line
