"""TF-GAN's metrics and losses: `tensorflow_gan_figures.py INPUTS.npz OUTPUTS.npz`."""

import sys

import numpy as np
import tensorflow as tf
import tensorflow_gan as tfgan

inputs, outputs = sys.argv[1:]
given = dict(np.load(inputs))
samples, reference = (given[name].astype("float64") for name in ("samples", "reference"))
logits = given["logits"].astype("float64")
real, fake = given["real_logits"], given["fake_logits"]


def penalty(target):
    """TF-GAN's mean of (norm of the gradient / target - 1)^2, at the real images themselves."""

    def critic(images, _):
        flat = tf.reshape(images, (len(given["images"]), -1))
        return tf.reduce_sum(tf.tanh(flat @ given["critic"]), axis=1)

    images = tf.constant(given["images"])
    return tfgan.losses.wargs.wasserstein_gradient_penalty(
        images, images, None, critic, "critic", epsilon=0.0, target=target
    )


with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    kid = tfgan.eval.kernel_classifier_distance_and_std_from_activations(
        tf.constant(given["kid_samples"].astype("float64")),
        tf.constant(given["kid_reference"].astype("float64")),
        max_block_size=int(given["subset_size"]),
    )
    losses = tfgan.losses.wargs
    figures = session.run(
        {
            "fid": tfgan.eval.frechet_classifier_distance_from_activations(
                tf.constant(reference), tf.constant(samples)
            ),
            "kid": kid[0],
            "kid_standard_error": kid[1],
            "inception_score": tfgan.eval.classifier_score_from_logits(tf.constant(logits)),
            "discriminator": losses.minimax_discriminator_loss(real, fake, label_smoothing=0.0),
            "generator": losses.modified_generator_loss(fake),
            "hinge_discriminator": losses.wasserstein_hinge_discriminator_loss(real, fake),
            "hinge_generator": losses.wasserstein_hinge_generator_loss(fake),
            "penalty_1": penalty(1.0),
            "penalty_half": penalty(0.5),
        }
    )
np.savez(outputs, **figures)
