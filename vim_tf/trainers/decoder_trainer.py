"""One training step of a tokenizer's decoder, with everything before the decoder frozen."""

import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.config.experiments import DecoderExperiment
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.gradients import gradients_or_zeros
from vim_tf.trainers.perturbation import TokenPerturbation
from vim_tf.trainers.reconstruction_trainer import Gradients, ReconstructionTrainer


class DecoderTrainer(ReconstructionTrainer):
    """Trains the decoder of a tokenizer on the tokens of images, some of them perturbed.

    Encoder, projection and codebook are neither trained nor decayed nor averaged, and no code is
    revived, so that all tokens keep their meaning.

    Args:
        experiment: the configuration.
        tokenizer: the `ViTVQGAN` to start from; it is not changed.

    Raises:
        UserError: the perturbation does not fit the codebook.
    """

    experiment: DecoderExperiment

    def __init__(self, experiment: DecoderExperiment, tokenizer: ViTVQGAN) -> None:
        def make_model() -> ViTVQGAN:
            model = ViTVQGAN(tokenizer.config, tokenizer.image_size)
            model.set_weights(tokenizer.get_weights())
            model.encoder.trainable = model.quantizer.trainable = False
            return model

        super().__init__(experiment, tokenizer.config, make_model)
        self.perturb = TokenPerturbation(tokenizer.quantizer, experiment.perturbation)

    def gradients_of(
        self, batch: dict[str, Tensor]
    ) -> tuple[Gradients, dict[str, Tensor], tuple[()]]:
        """Gradients of decoder and discriminator for one replica's batch; changes nothing.

        Args:
            batch: dict with "image" [B,H,W,3] float32 in [-1,1].

        Returns:
            (gradients, logs, no extras), as in `ViTVQGANTrainer`.
        """
        images = batch["image"]
        # In float32, whatever the precision of the training: the tokens are those of the tokenizer.
        frozen = self.ema_model
        codes = frozen.quantizer.lookup(self.perturb(frozen.tokenize(images)))
        with tf.GradientTape() as tape:
            decoded = self.model.decoder_output(codes, training=True)
            with tape.stop_recording():  # the tape must not differentiate the gradients inside
                pull, discriminator_gradients, squares, logs = self._judge_pixels(images, decoded)
            surrogate = tf.reduce_sum(pull * decoded)
        gradients = gradients_or_zeros(tape, surrogate, self.model.trainable_variables)
        return (gradients, discriminator_gradients, squares), logs, ()
