"""A process of test_memory: how much memory two steps of a training take, beside the estimate.

python tests/memory_run.py vit_vqgan 128 32 [training.rematerialize=true ...]

The arguments are the stage, the pictures' side, the batch, and overrides. Prints a line of JSON.
The memory is the greatest resident size of the process (Linux), less that before the model was
made; a tiny model has been trained before, so that TensorFlow's own memory does not count.
"""

import gc
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import yaml

from vim_tf import config_loader, memory
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.vim_trainer import VIMTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer


def resident(which):
    """VmRSS, the present, or VmHWM, the greatest since it was reset, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{which}:\s+(\d+)", status)[1])


def make_experiment(stage, side, batch, dim, overrides):
    """Three blocks of 8 heads, in patches of 8 pixels."""
    size = {"blocks": 3, "heads": 8, "dim": dim, "mlp_dim": 4 * dim}
    config = {
        "experiment": stage,
        "data": {"source": "emoji", "image_size": side, "batch_size": batch},
        "optimizer": {"warmup_steps": 0, "decay_start": 0},
    }
    if stage == "vit_vqgan":
        config["model"] = {"encoder": size, "decoder": size, "quantizer": {"codes": 1024}}
        config["losses"] = {"perceptual": 0, "adversarial": 0}
    else:
        config["model"] = {"transformer": {**size, "dropout": 0.1}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return config_loader.load_config([path], overrides)


def train(experiment, tokenizer_config):
    """Two steps; returns the estimate, and the second one's seconds."""
    side, batch = experiment.data.image_size[0], experiment.data.batch_size
    rng = np.random.default_rng(0)
    data = {"label": tf.zeros([batch], tf.int32)}
    if experiment.experiment == "vit_vqgan":
        trainer = ViTVQGANTrainer(experiment)
        data["image"] = tf.constant(rng.uniform(-1, 1, (batch, side, side, 3)), tf.float32)
        estimate = memory.estimate_vit_vqgan(experiment)
    else:
        trainer = VIMTrainer(experiment, ViTVQGAN(tokenizer_config, (side, side)), 2)
        data["token"] = tf.constant(rng.integers(0, 1024, (batch, (side // 8) ** 2)), tf.int32)
        estimate = memory.estimate_vim(experiment, tokenizer_config, 2)
    trainer.compile()
    step = tf.function(trainer.train_step, autograph=False)
    step(data)
    started = time.monotonic()
    step(data)
    return estimate, time.monotonic() - started


def main(stage, side, batch, *overrides):
    """The command line."""
    tokenizer = make_experiment("vit_vqgan", 32, 1, 16, ["model.quantizer.codes=1024"]).model
    train(make_experiment(stage, 32, 2, 16, overrides), tokenizer)
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    experiment = make_experiment(stage, int(side), int(batch), 256, overrides)
    estimate, seconds = train(experiment, tokenizer)
    taken = resident("VmHWM") - before
    found = {"taken": taken, "estimated": estimate.configured, "seconds": round(seconds, 2)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
