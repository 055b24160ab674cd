"""What the SavedModel answers: each signature as a plain graph function of a batch.

Every input's first dimension is the batch, so that a server can join requests, and a row's answer
does not depend on its neighbours. Nothing asserts: a row with a value out of range gets a line in
the output `error`, which is empty for a good row, and a placeholder in the other outputs (tokens
-1, pixels and features 0, bytes empty); the rest of the batch is answered as if it were not there.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from vim_tf.annotations import Tensor
from vim_tf.data.image_limits import pixel_limit
from vim_tf.data.transforms import normalize
from vim_tf.errors import UserError
from vim_tf.export.serving.encoded_images import prepare_images
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.sampling.settings import Allowed, allowed_settings, message

# In place of a wrong value; 0 for the other inputs.
OFF = {"temperature": 1, "top_p": 1, "guidance_scale": 1}
PAPERS_BLOCK = 5 / 12  # block 10 of 24 and 15 of 36 (section 4.3)


def default_block(blocks: int) -> int:
    """Returns the number of the block that `embed` takes if none is chosen."""
    return max(1, round(PAPERS_BLOCK * blocks))


class Signatures:
    """A tokenizer, and VIM if there is one, as functions from batches to dicts.

    Inputs and outputs by signature; H, W and N are the model's, B is any number of rows:

        tokenize           images uint8 [B,H,W,3] -> tokens int32 [B,N]
        tokenize_bytes     image_bytes string [B], JPEG or PNG of any size -> tokens
        decode             tokens -> images
        decode_bytes       tokens -> image_bytes, PNG
        reconstruct        images -> images
        embed              images -> features float32 [B,D] of one block of VIM
        embed_bytes        image_bytes -> features
        generate           label int32 [B], seed int64 [B], temperature float32 [B], top_k int32
                           [B], top_p float32 [B], guidance_scale float32 [B] -> tokens, image_bytes
        generate_default   label, seed -> tokens, image_bytes; temperature 1, nothing dropped, no
                           guidance
        generate_unlabelled  as generate, without label and guidance_scale

    Each also gives `error` string [B]. A tokenizer alone has the first five. A model that was
    trained without labels has no label and no guidance_scale anywhere, and no generate_unlabelled;
    neither has one that never saw the null label (`model.label_drop: 0`), and its guidance_scale
    must be 1.

    Args:
        tokenizer: a float32 `ViTVQGAN`.
        vim: a float32 `VIM` of the same tokens, or None.
        block: whose features `embed` gives; `default_block` if None.
        max_pixels: larger encoded images are refused by their header, see `prepare_images`;
            `pixel_limit` of the tokenizer's image size if None.

    Raises:
        UserError: VIM has no such block.
    """

    def __init__(
        self,
        tokenizer: ViTVQGAN,
        vim: VIM | None,
        block: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.vim: Any = vim  # None: a tokenizer alone
        self.max_pixels = max_pixels or pixel_limit(tokenizer.image_size)
        if vim:
            # One graph with guidance and one without, which all signatures share.
            self._sample_tokens = tf.function(vim.sample_tokens, autograph=False)
            blocks = len(vim.transformer.blocks)
            self.block = default_block(blocks) if block is None else block
            if not 1 <= self.block <= blocks:
                raise UserError(f"embed_block is {block}; this model has blocks 1 to {blocks}")

    @property
    def variables(self) -> list[tf.Variable]:
        """All weights, as tf.Variable."""
        models = [model for model in (self.tokenizer, self.vim) if model]
        return [variable.value for model in models for variable in model.variables]

    def functions(self) -> dict[str, Callable[..., dict[str, Tensor]]]:
        """Returns name -> `tf.function` with its input signature; the default one comes first."""
        images = tf.TensorSpec([None, *self.tokenizer.image_size, 3], tf.uint8, "images")
        image_bytes = tf.TensorSpec([None], tf.string, "image_bytes")
        tokens = tf.TensorSpec([None, self.tokenizer.tokens_per_image], tf.int32, "tokens")
        specs = {
            "tokenize": (self.tokenize, [images]),
            "tokenize_bytes": (self.tokenize_bytes, [image_bytes]),
            "decode": (self.decode, [tokens]),
            "decode_bytes": (self.decode_bytes, [tokens]),
            "reconstruct": (self.reconstruct, [images]),
        }
        if self.vim:
            specs = self._generating() | specs
            specs["embed"] = (self.embed, [images])
            specs["embed_bytes"] = (self.embed_bytes, [image_bytes])
        return {
            name: tf.function(function, input_signature=inputs, autograph=False)
            for name, (function, inputs) in specs.items()
        }

    def _generating(self):
        label, seed, temperature, top_k, top_p, guidance_scale = (
            tf.TensorSpec([None], dtype, name)
            for name, dtype in (
                ("label", tf.int32),
                ("seed", tf.int64),
                ("temperature", tf.float32),
                ("top_k", tf.int32),
                ("top_p", tf.float32),
                ("guidance_scale", tf.float32),
            )
        )
        settings = [seed, temperature, top_k, top_p]
        if not self.vim.classes:
            return {
                "generate": (self.generate_unlabelled, settings),
                "generate_default": (self.generate_unlabelled_default, [seed]),
            }
        specs = {
            "generate": (self.generate, [label, *settings, guidance_scale]),
            "generate_default": (self.generate_default, [label, seed]),
        }
        if self.vim.config.label_drop:
            specs["generate_unlabelled"] = (self.generate_unlabelled, settings)
        return specs

    # Tokenizer ----------------------------------------------------------------------------------

    def tokenize(self, images: Tensor) -> dict[str, Tensor]:
        """Images uint8 [B,H,W,3] -> tokens."""
        return _answer(_no_errors(images), tokens=self._tokenize(images))

    def tokenize_bytes(self, image_bytes: Tensor) -> dict[str, Tensor]:
        """JPEG or PNG files [B] -> tokens, after evaluation's resize and centre crop."""
        images, errors = self._prepare(image_bytes)
        return _answer(errors, tokens=self.tokenizer.tokenize(images))

    def decode(self, tokens: Tensor) -> dict[str, Tensor]:
        """Tokens [B,N] -> images uint8 [B,H,W,3]."""
        tokens, errors = self._check_tokens(tokens)
        return _answer(errors, images=self._decode(tokens))

    def decode_bytes(self, tokens: Tensor) -> dict[str, Tensor]:
        """Tokens [B,N] -> PNG files [B]."""
        tokens, errors = self._check_tokens(tokens)
        return _answer(errors, image_bytes=_encode_png(self._decode(tokens)))

    def reconstruct(self, images: Tensor) -> dict[str, Tensor]:
        """Images uint8 [B,H,W,3] -> what the tokenizer makes of them."""
        return _answer(_no_errors(images), images=self._decode(self._tokenize(images)))

    # VIM ----------------------------------------------------------------------------------------

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """Images uint8 [B,H,W,3] -> features [B,D], the mean over a block's output."""
        features = self.vim.features(self._tokenize(images), self.block)
        return _answer(_no_errors(images), features=features)

    def embed_bytes(self, image_bytes: Tensor) -> dict[str, Tensor]:
        """JPEG or PNG files [B] -> features, as `embed`."""
        images, errors = self._prepare(image_bytes)
        features = self.vim.features(self.tokenizer.tokenize(images), self.block)
        return _answer(errors, features=features)

    def generate(
        self,
        label: Tensor,
        seed: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        guidance_scale: Tensor,
    ) -> dict[str, Tensor]:
        """Samples of classes; each row has its own settings."""
        check = self._check_settings(label)
        label, seed = check("label", label), check("seed", seed)
        settings = check("temperature", temperature), check("top_k", top_k), check("top_p", top_p)
        guidance_scale = check("guidance_scale", guidance_scale)
        tokens = tf.cond(
            tf.reduce_any(guidance_scale != 1.0),
            lambda: self._sample_tokens(label, seed, *settings, guidance_scale),
            lambda: self._sample_tokens(label, seed, *settings, None),
        )
        return self._answer_tokens(check.errors, tokens)

    def generate_default(self, label: Tensor, seed: Tensor) -> dict[str, Tensor]:
        """Samples of classes from the model's own distribution."""
        check = self._check_settings(label)
        label, seed = check("label", label), check("seed", seed)
        tokens = self._sample_tokens(label, seed, *_all_off(seed))
        return self._answer_tokens(check.errors, tokens)

    def generate_unlabelled(
        self, seed: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> dict[str, Tensor]:
        """Samples of no class in particular."""
        check = self._check_settings(seed)
        seed = check("seed", seed)
        settings = check("temperature", temperature), check("top_k", top_k), check("top_p", top_p)
        tokens = self._sample_tokens(self._null_label(seed), seed, *settings, None)
        return self._answer_tokens(check.errors, tokens)

    def generate_unlabelled_default(self, seed: Tensor) -> dict[str, Tensor]:
        """Samples of no class in particular, from the model's own distribution."""
        check = self._check_settings(seed)
        seed = check("seed", seed)
        tokens = self._sample_tokens(self._null_label(seed), seed, *_all_off(seed))
        return self._answer_tokens(check.errors, tokens)

    def _null_label(self, seed):
        return tf.fill(tf.shape(seed), self.vim.classes)

    def _check_settings(self, rows):
        vim = self.vim
        allowed = allowed_settings(vim.codes, vim.classes, vim.config.label_drop)
        return _Check(tf.shape(rows)[0], allowed)

    def _answer_tokens(self, errors, tokens):
        return _answer(errors, tokens=tokens, image_bytes=_encode_png(self._decode(tokens)))

    # Inside -------------------------------------------------------------------------------------

    def _prepare(self, image_bytes):
        return prepare_images(image_bytes, self.tokenizer.image_size, self.max_pixels)

    def _tokenize(self, images):
        return self.tokenizer.tokenize(normalize(images))

    def _decode(self, tokens):
        """Tokens [B,N] -> uint8 [B,H,W,3], rounded as `generator.to_uint8`."""
        images = (self.tokenizer.decode_tokens(tokens) + 1.0) * 127.5
        return tf.cast(tf.clip_by_value(tf.round(images), 0.0, 255.0), tf.uint8)

    def _check_tokens(self, tokens):
        allowed = Allowed(0, self.tokenizer.config.quantizer.codes - 1)
        wrong = ~allowed.contains(tokens)  # [B,N]
        first = tf.argmax(wrong, axis=1, output_type=tf.int32)
        value = tf.gather(tokens, first, axis=1, batch_dims=1)  # [B]
        check = _Check(tf.shape(tokens)[0], {"tokens": allowed})
        check("tokens", value)
        return tf.where(wrong, 0, tokens), check.errors


class _Check:
    """Collects the first mistake of each row: `errors` [B] string.

    Args:
        rows: number of rows B.
        allowed: name of an input -> the values that it may have.
    """

    def __init__(self, rows: Tensor, allowed: dict[str, Allowed]) -> None:
        self.errors = tf.fill([rows], "")
        self.allowed = allowed

    def __call__(self, name: str, values: Tensor) -> Tensor:
        """Returns values [B] with a good value instead of each wrong one.

        Seeds [B] int64 become int32; those above 2^31 wrap around, as in `VIM.generate`.
        """
        allowed = self.allowed["labels" if name == "label" else name]
        good = allowed.contains(values)
        before, after = message(name, "{}", allowed).split("{}")
        value = tf.strings.as_string(values, shortest=values.dtype.is_floating)
        error = tf.strings.join([before, value, after])
        self.errors = tf.where((self.errors == "") & ~good, error, self.errors)
        values = tf.where(good, values, tf.cast(OFF.get(name, 0), values.dtype))
        return tf.cast(values, tf.int32) if values.dtype == tf.int64 else values


def _all_off(seed):
    """The settings of rows from the model's own distribution, for `VIM.sample_tokens`."""
    temperature = tf.ones_like(seed, tf.float32)
    return temperature, tf.zeros_like(seed, tf.int32), temperature, None


def _no_errors(images):
    return tf.fill([tf.shape(images)[0]], "")


def _answer(errors, **outputs):
    """The outputs and `error`; rows with an error get placeholders."""
    good = errors == ""
    placeholders = {"tokens": -1, "images": 0, "features": 0, "image_bytes": ""}
    answer = {
        name: tf.where(
            tf.reshape(good, (-1,) + (1,) * (len(value.shape) - 1)),
            value,
            tf.constant(placeholders[name], value.dtype),
        )
        for name, value in outputs.items()
    }
    return answer | {"error": errors}


def _encode_png(images):
    """Images uint8 [B,H,W,3] -> PNG files [B]."""
    return tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)
