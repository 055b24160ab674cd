"""A process of test_replicas_agree: runs 20 steps of a stage in one of `WAYS`; writes an .npz.

python tests/distribution/replica_run.py vit_vqgan "4 replicas" out.npz [sum|clip_first]
"""

import copy
import functools
import os
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import yaml

from vim_tf.config import loader
from vim_tf.distribution.replicas import share_batches
from vim_tf.distribution.strategies import strategy_of
from vim_tf.trainers import gradients, reconstruction_trainer, trainer, vit_vqgan_trainer
from vim_tf.training_loop.loop import TrainLoop

STEPS, BATCH = 20, 16
# With seed 0, at step 17 of the classifier, the sign of one activation before a ReLU depends on the
# order of a sum. Before that step the weights agree to 2e-6, after it to 3e-3. This seed has no
# such activation.
SEED = 2
RATE = {"learning_rate": 1e-3, "schedule": "constant", "warmup_steps": 0, "decay_start": 0}
RATE |= {"clip_norm": 0.05}  # below every norm, so that every step is clipped
# Everything that draws, counts or uses more than one row.
EVERYTHING = {
    "vit_vqgan": {
        # At the usual temperature, 0.01, the next step depends on the last bits of a sum.
        "losses": {"perceptual": 0, "entropy": 0.1, "entropy_temperature": 1.0},
        "model": {
            "patch_size": 4,
            "encoder": {"blocks": 1, "heads": 2, "dim": 16, "mlp_dim": 32, "dropout": 0.2},
            "decoder": {"blocks": 1, "heads": 2, "dim": 16, "mlp_dim": 32, "dropout": 0.2},
            "quantizer": {"codes": 16, "code_dim": 4, "revive_every": 5, "rotation_trick": True},
        },
        "discriminator": {"channels": 8, "base_channels": 128, "r1_every": 4, "ramp_steps": 3},
        "discriminator_optimizer": RATE,
    },
    "vim": {
        "model": {
            "transformer": {"blocks": 2, "heads": 2, "dim": 16, "mlp_dim": 32, "dropout": 0.2},
            "label_drop": 0.5,
        },
    },
    "classifier": {"model": {"width": 8, "stages": 2, "dropout": 0.3}},
}


WAYS = {
    "one replica": {},
    "2 replicas": {"strategy": "mirrored", "cpu_replicas": 2},
    "4 replicas": {"strategy": "mirrored", "cpu_replicas": 4},
    "two workers": {"strategy": "multi_worker"},  # this process is one of those in TF_CONFIG
    "less memory": {"rematerialize": True, "query_block": 5},
    # Both without the entropy term, which does not work with parts of a batch.
    "whole batches": {},
    "parts on 2 replicas": {
        "gradient_accumulation_steps": 2,
        "strategy": "mirrored",
        "cpu_replicas": 2,
    },
}


def make_experiment(stage, way, folder):
    """Writes and loads the config; each process its own, since two workers share the folder."""
    config = {
        "experiment": stage,
        "seed": SEED,
        "data": {"source": "emoji", "image_size": 16, "batch_size": BATCH},
        "optimizer": RATE,
        "training": {"steps": STEPS, "ema_decay": 0.9, **WAYS[way]},
        **copy.deepcopy(EVERYTHING[stage]),
    }
    if stage == "vit_vqgan" and ("part" in way or "whole" in way):
        config["losses"]["entropy"] = 0
    path = folder / f"{stage} of {os.getpid()}.yaml"
    path.write_text(yaml.safe_dump(config))
    return loader.load_config([path])


def make_dataset(stage, worker, workers):
    """Twenty different batches; of each, the rows of this worker."""
    rng = np.random.default_rng(0)
    data = {"label": rng.integers(0, 2, STEPS * BATCH).astype("int32")}
    if stage == "vim":
        data["token"] = rng.integers(0, 16, (STEPS * BATCH, 16)).astype("int32")
    else:
        images = rng.uniform(-1, 1, (STEPS * BATCH, 4, 4, 3)).astype("float32")
        data["image"] = images.repeat(4, 1).repeat(4, 2)
    share = BATCH // workers
    mine = np.arange(STEPS * BATCH) % BATCH // share == worker
    data = {name: values[mine] for name, values in data.items()}
    return tf.data.Dataset.from_tensor_slices(data).batch(share)


def make_trainer(stage, experiment, folder):
    """Call it inside the strategy's scope."""
    keras.utils.set_random_seed(SEED)
    if stage == "vit_vqgan":
        made = vit_vqgan_trainer.ViTVQGANTrainer(experiment)
    elif stage == "vim":
        from vim_tf.models.vit_vqgan import ViTVQGAN
        from vim_tf.trainers.vim_trainer import VIMTrainer

        tokenizer = ViTVQGAN(make_experiment("vit_vqgan", "one replica", folder).model, (16, 16))
        made = VIMTrainer(experiment, tokenizer, 2)
    else:
        from vim_tf.trainers.classifier_trainer import ClassifierTrainer

        made = ClassifierTrainer(experiment, 2)
    made.compile()
    return made


def mutate(mutant):
    """Breaks the reduction of gradients in one of two ways."""
    right = gradients.apply_gradients

    def wrong(optimizer, found, variables, clip_norm):
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        found = gradients.densify(found)
        if mutant == "sum":
            return right(optimizer, [g * replicas for g in found], variables, clip_norm)
        norm = tf.linalg.global_norm(found)
        scale = clip_norm / tf.maximum(norm, clip_norm)
        return right(optimizer, [g * scale for g in found], variables, 0)

    for module in (trainer, reconstruction_trainer):
        module.apply_gradients = wrong


def main(stage, way, out, mutant=None):
    """Trains and writes the results."""
    folder = out.parent
    experiment = make_experiment(stage, way, folder)
    strategy = strategy_of(experiment.training)
    if mutant:
        mutate(mutant)
    with strategy.scope():
        made = make_trainer(stage, experiment, folder)
    found = {f"before/{i}": v.numpy() for i, v in enumerate(made.trainable_variables)}

    def first_gradients(batch):
        pairs, _, _ = made.compute_gradients(batch)
        flat = gradients.densify(tf.nest.flatten(pairs, expand_composites=False))
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, flat)

    make = functools.partial(make_dataset, stage)
    batch = next(iter(share_batches(strategy, make, BATCH)))
    reduced = tf.function(lambda b: strategy.run(first_gradients, (b,)), autograph=False)(batch)
    for i, gradient in enumerate(reduced):
        found[f"gradient/{i}"] = strategy.experimental_local_results(gradient)[0].numpy()
    loop = TrainLoop(made, strategy, share_batches(strategy, make, BATCH), images_per_epoch=10**9)
    logs = loop.train(tf.constant(STEPS))
    for i, variable in enumerate(made.trainable_variables):
        found[f"after/{i}"] = variable.numpy()
        for value in strategy.experimental_local_results(variable.value):
            assert np.array_equal(value, found[f"after/{i}"]), variable.path
    for i, variable in enumerate(made.ema_model.weights):
        found[f"average/{i}"] = variable.numpy()
    for name, value in logs.items():
        found[f"log/{name}"] = np.asarray(value)
    if stage == "vit_vqgan":
        found["count/usage"] = np.asarray(made.usage.counts)
        found["count/hits"] = made.revival.hits.numpy()
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
