"""The unchanged files that `fuzz.py` works on: tiny runs, exports, networks and images.

The runs are those of `fixtures/`, so nothing is trained: all of it takes about ten seconds.
"""

import importlib.util
import json
import struct
import sys
from pathlib import Path

HERE = Path(__file__).parent
IMAGE_FORMATS = ("png", "jpg", "gif", "bmp", "webp", "tiff")


def load_module(name, path):
    """Imports a file of the tests by its path."""
    spec = importlib.util.spec_from_file_location(name, HERE / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def make_world(folder):
    """Fills a new folder."""
    import tensorflow as tf

    from vim_tf import formats
    from vim_tf.export.litert.tflite_generator import write_files
    from vim_tf.generation.image_generator import ImageGenerator
    from vim_tf.runs.checkpoints import Checkpoints
    from vim_tf.runs.trained_run import open_run

    fixtures = load_module("make_fixtures", "fixtures/make.py")
    number = max(formats.NUMBERS.values())
    fixtures.open_fixture(HERE / "fixtures" / f"format_{number}", folder)
    generator = ImageGenerator.load(folder / "vim")
    (folder / "tflite").mkdir()
    write_files(generator.vim, generator.class_names, folder / "tflite")
    saved = Checkpoints({"a": tf.Variable(7)}, folder / "checkpoints", 3)
    for step in (1, 2):
        saved.save(step)
    saved.mark_best(1, 0.5)
    probe = {"block": 1, "models": open_run(folder / "vim").hashes()}
    (folder / "vim" / "probe").mkdir()
    (folder / "vim" / "probe" / "probe.json").write_text(formats.to_json("probe", probe))
    write_configs(folder)
    write_networks(folder)
    write_images(folder)
    write_records(folder)


def write_configs(folder):
    """Writes configs, and what a run leaves beside its models."""
    import conftest

    data = conftest.TINY_DATA.format(images=folder / "images")
    texts = {"vit_vqgan": conftest.TINY_VIT_VQGAN, "vim": conftest.TINY_VIM}
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text + data + conftest.TINY_TRAINING)
    sources = {
        "folder": f"{{source: folder, path: {folder}/one, validation_path: {folder}/one}}",
        "idx": f"{{source: idx, path: {folder}/idx, split: train, validation_split: t10k}}",
        "tfrecord": f"{{source: tfrecord, path: '{folder}/records/train-*', "
        f"validation_path: '{folder}/records/train-*'}}",
    }
    for name, section in sources.items():
        text = f"experiment: classifier\ndata: {section}\n"
        (folder / f"data_{name}.yaml").write_text(text)
    lines = [
        {"step": step, "kind": kind, "loss": 1 / step, "psnr": 20.5}
        for step in (1, 2, 3)
        for kind in ("train", "evaluation")
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "vim" / "metrics.jsonl").write_text(text)
    (folder / "vim" / "lock").write_text("")


def write_networks(folder):
    """Writes a small graph with Inception's names, a Keras classifier, statistics and images."""
    import keras
    import numpy as np
    from safetensors.numpy import save_file

    from vim_tf import formats
    from vim_tf.evaluation import lpips
    from vim_tf.evaluation.features import open_extractor
    from vim_tf.metrics.fid import FeatureStatistics

    load_module("evaluation_conftest", "evaluation/conftest.py").make_frozen_graph(
        folder / "net.pb"
    )
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(4, 3, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax"),
        ]
    )
    model.save(folder / "net.keras")
    rng = np.random.default_rng(0)
    np.savez(folder / "images.npz", arr_0=rng.integers(0, 256, (6, 16, 16, 3), dtype="uint8"))
    network = open_extractor(folder / "net.pb")
    pooled, spatial = FeatureStatistics(network.dim), FeatureStatistics(network.spatial_dim)
    pooled.update(rng.normal(size=(20, network.dim)))
    spatial.update(rng.normal(size=(20, network.spatial_dim)))
    about = {"format": formats.NUMBERS["statistics"], "written_by": formats.WRITTEN_BY}
    about |= {"extractor": network.sha256, "resize": network.mode}
    pooled.save(folder / "statistics.npz", spatial, **about)
    # Only the small ones: most changes in 59 MB would have no effect.
    shapes = {name: shape for name, shape in lpips._shapes().items() if np.prod(shape) < 3000}
    tensors = {name: np.ones(shape, "float32") for name, shape in shapes.items()}
    save_file(tensors, folder / "lpips.safetensors")


def write_images(folder):
    """Writes one image of each format, and a folder of one image."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 6, 4), dtype="uint8").repeat(3, 0).repeat(3, 1)
    (folder / "formats").mkdir()
    for ending in IMAGE_FORMATS:
        mode = "RGBA" if ending in ("png", "webp", "tiff") else "RGB"
        Image.fromarray(pixels).convert(mode).save(folder / "formats" / f"x.{ending}")
    (folder / "one").mkdir()
    for name in ("a", "b"):
        (folder / "one" / name).mkdir()
        Image.fromarray(pixels[..., :3]).save(folder / "one" / name / "0.png")


def write_records(folder):
    """Writes IDX files and a TFRecord file of images."""
    import tensorflow as tf

    (folder / "idx").mkdir()
    for split in ("train", "t10k"):
        images = struct.pack(">4B3I", 0, 0, 8, 3, 4, 6, 5) + bytes(range(120))
        (folder / "idx" / f"{split}-images-idx3-ubyte").write_bytes(images)
        labels = struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes([0, 1, 0, 1])
        (folder / "idx" / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    (folder / "records").mkdir()
    png = (folder / "one" / "a" / "0.png").read_bytes()
    with tf.io.TFRecordWriter(str(folder / "records" / "train-00000-of-00001")) as writer:
        for label in (0, 1):
            features = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                "image/class/text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString(deterministic=True))
