"""ViT-VQGAN, the image tokenizer (section 3 of https://arxiv.org/abs/2110.04627)."""

from dataclasses import asdict, dataclass
from typing import Any

import keras
from keras import ops

from vim_tf.annotations import Tensor
from vim_tf.config.checks import LONGEST_SIDE, require, sizes, tokens
from vim_tf.config.sections import ViTVQGANConfig
from vim_tf.costs.parameters import count_vit_vqgan
from vim_tf.losses import LOGIT_LAPLACE_EPSILON
from vim_tf.models.input_checks import check_images, check_tokens
from vim_tf.models.preset import Preset, hash_weights
from vim_tf.models.quantizer import QuantizerOutput, VectorQuantizer
from vim_tf.models.transformer import Transformer
from vim_tf.models.vit import ViTDecoder, ViTEncoder

IMAGE_RANGE = "RGB in [-1,1]"
_OF_TOKENS = ("codes", "code_dim", "l2_normalize")  # of the quantizer's config


@dataclass(frozen=True)
class _Arguments:
    """What `ViTVQGAN.get_config` answers, with its limits."""

    config: ViTVQGANConfig
    image_size: tuple[int, int]

    def __post_init__(self):
        (height, width), patch = self.image_size, self.config.patch_size
        sizes("", height=(height, LONGEST_SIDE), width=(width, LONGEST_SIDE))
        require(
            height % patch == 0 and width % patch == 0,
            f"image_size is {height} x {width}; it must be a multiple of patch_size, {patch}",
        )
        tokens(height // patch, width // patch, "image_size and patch_size")


@keras.saving.register_keras_serializable("vim_tf")
class ViTVQGAN(Preset, keras.Model):
    """Turns images into tokens and back.

    A 32 x 32 image in patches of 4 has a grid of 8 x 8 = 64 tokens:

        tokens = model.tokenize(images)        # [B,32,32,3] -> [B,64]
        images = model.decode_tokens(tokens)   # [B,64] -> [B,32,32,3]

    Args:
        config: `ViTVQGANConfig`.
        image_size: height and width in pixels, multiples of `config.patch_size`.
    """

    Arguments = _Arguments

    def __init__(self, config: ViTVQGANConfig, image_size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        patch_size = config.patch_size
        self.config = config
        self.image_size: tuple[int, int] = (image_size[0], image_size[1])
        self.grid = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.encoder = ViTEncoder(
            config.encoder, patch_size, self.grid, config.positions, name="encoder"
        )
        self.quantizer = VectorQuantizer(config.quantizer, name="quantizer")
        self.decoder = ViTDecoder(
            config.decoder,
            patch_size,
            self.grid,
            config.positions,
            config.quantizer.code_dim,
            channels=config.output_channels,
            overlapping=config.overlapping_patches,
            refinement_channels=config.refinement_channels,
            name="decoder",
        )
        self.encoder.build((None, *self.image_size, 3))
        self.quantizer.build((None, self.tokens_per_image, config.encoder.dim))
        self.decoder.build((None, self.tokens_per_image, config.quantizer.code_dim))
        self.built = True

    @property
    def tokens_per_image(self) -> int:
        """Number of tokens N of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def transformers(self) -> tuple[Transformer, ...]:
        """Those of encoder and decoder."""
        return self.encoder.transformer, self.decoder.transformer

    def __call__(self, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Checks the images before Keras converts them; see `call` and `encode`."""
        return super().__call__(check_images(images, self.image_size), *args, **kwargs)

    def encode(self, images: Tensor, training: bool | None = None) -> QuantizerOutput:
        """Images [B,H,W,3] in [-1,1] -> `QuantizerOutput`.

        Raises:
            UserError: images of another dtype than float, of another size, or, outside of a graph,
                with values outside [-1,1]. `vim_tf.normalize` makes such images from uint8.
        """
        return self._encode(check_images(images, self.image_size), training)

    def _encode(self, images, training):
        return self.quantizer(self.encoder(images, training=training))

    def tokenize(self, images: Tensor) -> Tensor:
        """Images [B,H,W,3] in [-1,1] -> tokens [B,N] int32 in raster order; see `encode`."""
        return self._encode(check_images(images, self.image_size), None).tokens

    def decoder_output(self, codes: Tensor, training: bool | None = None) -> Tensor:
        """Codes [B,N,d] -> the numbers of `distribution_of`, [B,H,W,3 or 6] float32."""
        return ops.cast(self.decoder(codes, training=training), "float32")

    def decode_distribution(
        self, codes: Tensor, training: bool | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Codes [B,N,d] -> `distribution_of` their `decoder_output`."""
        return self.distribution_of(self.decoder_output(codes, training=training))

    def distribution_of(self, decoded: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The decoder's output -> images [B,H,W,3] before clipping, logit-Laplace parameters.

        Args:
            decoded: [B,H,W,3] or, for "logit_laplace", [B,H,W,6], float32.

        Returns:
            (images, mean, log_scale), each [B,H,W,3] float32; the last two are None unless
            `config.output` is "logit_laplace". The images are then the sigmoid of the mean,
            mapped from [EPSILON, 1 - EPSILON] to [-1,1], see `losses.LOGIT_LAPLACE_EPSILON`.
        """
        if self.config.output == "rgb":
            return decoded, None, None
        mean, log_scale = decoded[..., :3], decoded[..., 3:]
        squeezed = ops.sigmoid(mean)
        return (2 * squeezed - 1) / (1 - 2 * LOGIT_LAPLACE_EPSILON), mean, log_scale

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B,N,d] -> images [B,H,W,3] float32 in [-1,1]."""
        return ops.clip(self.decode_distribution(codes)[0], -1, 1)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [B,N] int32 -> images [B,H,W,3] float32 in [-1,1].

        Raises:
            UserError: tokens that are no integers or, outside of a graph, no codes of the codebook.
        """
        tokens = check_tokens(tokens, self.config.quantizer.codes)
        return self.decode(self.quantizer.lookup(tokens))

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Images [B,H,W,3] in [-1,1] -> their reconstruction."""
        codes = self.quantizer.pass_codes(self._encode(images, training))
        return ops.clip(self.decode_distribution(codes, training=training)[0], -1, 1)

    def resized(self, image_size: tuple[int, int]) -> "ViTVQGAN":
        """Returns a new model for images of another size, with these weights.

        Learned positions are resized bicubically; all other weights are copied.
        """
        other = ViTVQGAN(self.config, image_size)
        for part in ("encoder", "decoder"):
            old, new = getattr(self, part), getattr(other, part)
            for name in ("embedding", "transformer", "head", "refinement"):
                if getattr(old, name, None) is not None:  # not every decoder has a refinement
                    getattr(new, name).set_weights(getattr(old, name).get_weights())
            new.positions.copy_resized(old.positions)
        other.quantizer.set_weights(self.quantizer.get_weights())
        return other

    def token_hash(self) -> str:
        """Returns the SHA-256 of all that decides tokens, as hexadecimal text.

        It covers encoder, projection, codebook, and the size and range of the images. Two models
        with the same hash make the same tokens of an image. Their decoders may differ.
        """
        quantizer = asdict(self.config.quantizer)
        about = {
            "images": [*self.image_size, IMAGE_RANGE],
            "quantizer": {name: quantizer[name] for name in _OF_TOKENS},
            **self._parts("patch_size", "positions", "encoder"),
        }
        return hash_weights(about, [*self.encoder.weights, *self.quantizer.weights])

    def decoder_hash(self) -> str:
        """Returns the SHA-256 of all that turns codes into images, as hexadecimal text."""
        names = ("patch_size", "positions", "decoder", "output", "overlapping_patches")
        about = {
            "images": [*self.image_size, IMAGE_RANGE],
            "code_dim": self.config.quantizer.code_dim,
            **self._parts(*names, "refinement_channels"),
        }
        return hash_weights(about, self.decoder.weights)

    def hashes(self) -> dict[str, str]:
        """Returns {"tokens": `token_hash`, "decoder": `decoder_hash`}, for records."""
        return {"tokens": self.token_hash(), "decoder": self.decoder_hash()}

    def _parts(self, *names):
        config = asdict(self.config)
        return {name: config[name] for name in names}

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs."""
        return {"config": asdict(self.config), "image_size": list(self.image_size)}

    @staticmethod
    def count_parameters(arguments: Any) -> int:
        """Returns the number of weights of a model, from its checked arguments."""
        return sum(count_vit_vqgan(**vars(arguments)).values())
