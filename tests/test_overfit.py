"""If an autoencoder of a few layers cannot memorise one image, something is wrong."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.data.images import make_image_dataset
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer


@pytest.mark.large
@pytest.mark.parametrize("output", ["rgb", "logit_laplace"])
def test_one_emoji_to_35_db(tiny, output):
    """Only with squared error, because the logit-Laplace term prefers exact areas of one colour."""
    experiment = tiny(
        "vit_vqgan",
        "data.source=emoji",
        "data.path=null",
        "data.validation_path=null",
        "data.image_size=32",
        "model.encoder.dim=64",
        "model.encoder.mlp_dim=128",
        "model.decoder={blocks: 2, heads: 4, dim: 64, mlp_dim: 128}",
        "model.quantizer={codes: 64, revive_every: 0}",
        f"model.output={output}",
        "losses.logit_laplace=0",
        "losses.adversarial=0",
        "optimizer={learning_rate: 3e-3, final_ratio: 0.02, clip_norm: 1}",
        "training.steps=500",
    )
    keras.utils.set_random_seed(0)
    data = make_image_dataset(experiment.data, 0)
    batch = next(iter(data.evaluation(batch_size=1)))
    assert np.std(batch["image"]) > 0.1
    trainer = ViTVQGANTrainer(experiment)
    trainer.compile()
    step = tf.function(trainer.train_step)
    for _ in range(500):
        step(batch)
    reconstruction = trainer.model(batch["image"])
    error = np.mean((np.asarray(reconstruction) - batch["image"]) ** 2) / 4
    assert -10 * np.log10(error) > 35
