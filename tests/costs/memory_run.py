"""A process of test_memory_taken: the memory that training steps take, and the estimate.

TF_ENABLE_ONEDNN_OPTS=1 python tests/costs/memory_run.py vit_vqgan 128 32 [OVERRIDE ...]

The arguments are the stage, the image size, the batch size, and overrides. Prints a line of JSON.
The memory is that of tensors: the peak of TensorFlow's allocator since the model was made. The
process takes more: code, graphs, and gaps between tensors.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import yaml

from vim_tf.config import loader
from vim_tf.costs import memory
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.vim_trainer import VIMTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

DEVICE = "CPU:0"
STEPS = 4  # the peak differs from step to step with the order of operations


def make_experiment(stage, side, batch, dim, overrides):
    """An experiment with three blocks of 8 heads, and patches of 8 pixels."""
    size = {"blocks": 3, "heads": 8, "dim": dim, "mlp_dim": 4 * dim}
    config = {
        "experiment": stage,
        "data": {"source": "emoji", "image_size": side, "batch_size": batch},
        "optimizer": {"warmup_steps": 0, "decay_start": 0},
    }
    if stage == "vit_vqgan":
        # A copy: YAML writes a repeated dict as an alias, which configs do not allow.
        config["model"] = {"encoder": size, "decoder": {**size}, "quantizer": {"codes": 1024}}
        config["losses"] = {"perceptual": 0, "adversarial": 0}
    else:
        config["model"] = {"transformer": {**size, "dropout": 0.1}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return loader.load_config([path], overrides)


def make_step(experiment, tokenizer_config):
    """Returns (a function that makes a step, the estimate)."""
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
    return lambda: step(data), estimate


def main(stage, side, batch, *overrides):
    """The command line."""
    tokenizer = make_experiment("vit_vqgan", 32, 1, 16, ["model.quantizer.codes=1024"]).model
    experiment = make_experiment(stage, int(side), int(batch), 256, overrides)
    step, estimate = make_step(experiment, tokenizer)
    step()
    tf.config.experimental.reset_memory_stats(DEVICE)
    started = time.monotonic()
    for _ in range(STEPS):
        step()
    seconds = (time.monotonic() - started) / STEPS
    taken = tf.config.experimental.get_memory_info(DEVICE)["peak"]
    found = {"taken": taken, "estimated": estimate.configured, "seconds": round(seconds, 2)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
