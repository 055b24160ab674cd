"""What the SavedModel answers: each signature as a plain graph function of a batch.

Every input's first dimension is the batch, so that a server can join requests, and a row's answer
does not depend on its neighbours. Nothing asserts: a row with a value out of range gets a line in
the output `error`, which is empty for a good row, and a placeholder in the other outputs (tokens
-1, pixels and features 0, bytes empty); the rest of the batch is answered as if it were not there.
"""

import tensorflow as tf

from vim_tf.data.image_limits import pixel_limit
from vim_tf.data.transforms import normalize
from vim_tf.errors import UserError
from vim_tf.export.serving.encoded_images import prepare_images

PAPERS_BLOCK = 5 / 12  # block 10 of 24 and 15 of 36 (section 4.3)
SEEDS = (-(2**31), 2**32 - 1)


def default_block(blocks):
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
    neither has one that never saw the null label (`model.label_drop: 0`).

    Args:
        tokenizer: a float32 `ViTVQGAN`.
        vim: a float32 `VIM` of the same tokens, or None.
        block: whose features `embed` gives; `default_block` if None.
        max_pixels: larger encoded images are refused by their header, see `prepare_images`;
            `pixel_limit` of the tokenizer's image size if None.

    Raises:
        UserError: VIM has no such block.
    """

    def __init__(self, tokenizer, vim, block=None, max_pixels=None):
        self.tokenizer = tokenizer
        self.vim = vim
        self.max_pixels = max_pixels or pixel_limit(tokenizer.image_size)
        if vim:
            blocks = len(vim.transformer.blocks)
            self.block = default_block(blocks) if block is None else block
            if not 1 <= self.block <= blocks:
                raise UserError(f"embed_block is {block}; this model has blocks 1 to {blocks}")

    @property
    def variables(self):
        """All weights, as tf.Variable."""
        models = [model for model in (self.tokenizer, self.vim) if model]
        return [variable.value for model in models for variable in model.variables]

    def functions(self):
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

    def tokenize(self, images):
        """Images uint8 [B,H,W,3] -> tokens."""
        return _answer(_no_errors(images), tokens=self._tokenize(images))

    def tokenize_bytes(self, image_bytes):
        """JPEG or PNG files [B] -> tokens, after evaluation's resize and centre crop."""
        images, errors = self._prepare(image_bytes)
        return _answer(errors, tokens=self.tokenizer.tokenize(images))

    def decode(self, tokens):
        """Tokens [B,N] -> images uint8 [B,H,W,3]."""
        tokens, errors = self._check_tokens(tokens)
        return _answer(errors, images=self._decode(tokens))

    def decode_bytes(self, tokens):
        """Tokens [B,N] -> PNG files [B]."""
        tokens, errors = self._check_tokens(tokens)
        return _answer(errors, image_bytes=_encode_png(self._decode(tokens)))

    def reconstruct(self, images):
        """Images uint8 [B,H,W,3] -> what the tokenizer makes of them."""
        return _answer(_no_errors(images), images=self._decode(self._tokenize(images)))

    # VIM ----------------------------------------------------------------------------------------

    def embed(self, images):
        """Images uint8 [B,H,W,3] -> features [B,D], the mean over a block's output."""
        features = self.vim.features(self._tokenize(images), self.block)
        return _answer(_no_errors(images), features=features)

    def embed_bytes(self, image_bytes):
        """JPEG or PNG files [B] -> features, as `embed`."""
        images, errors = self._prepare(image_bytes)
        features = self.vim.features(self.tokenizer.tokenize(images), self.block)
        return _answer(errors, features=features)

    def generate(self, label, seed, temperature, top_k, top_p, guidance_scale):
        """Samples of classes; every setting is a row's own."""
        check = _Check(tf.shape(label)[0])
        label, seed = self._check_label(check, label), _check_seed(check, seed)
        settings = self._check_settings(check, temperature, top_k, top_p)
        guidance_scale = check.range("guidance_scale", guidance_scale, 0.0, None, instead=1.0)
        return self._sample(check.errors, label, seed, *settings, guidance_scale)

    def generate_default(self, label, seed):
        """Samples of classes from the model's own distribution."""
        check = _Check(tf.shape(label)[0])
        label, seed = self._check_label(check, label), _check_seed(check, seed)
        return self._sample(check.errors, label, seed, tf.ones_like(label, tf.float32))

    def generate_unlabelled(self, seed, temperature, top_k, top_p):
        """Samples of no class in particular."""
        check = _Check(tf.shape(seed)[0])
        seed = _check_seed(check, seed)
        settings = self._check_settings(check, temperature, top_k, top_p)
        return self._sample(check.errors, self._null_label(seed), seed, *settings)

    def generate_unlabelled_default(self, seed):
        """Samples of no class in particular, from the model's own distribution."""
        check = _Check(tf.shape(seed)[0])
        seed = _check_seed(check, seed)
        temperature = tf.ones_like(seed, tf.float32)
        return self._sample(check.errors, self._null_label(seed), seed, temperature)

    def _null_label(self, seed):
        return tf.fill(tf.shape(seed), self.vim.classes)

    def _check_label(self, check, label):
        return check.range("label", label, 0, self.vim.classes - 1, instead=0)

    def _check_settings(self, check, temperature, top_k, top_p):
        return (
            check.range("temperature", temperature, 0.0, None, instead=1.0),
            check.range("top_k", top_k, 0, self.vim.codes, instead=0),
            check.range("top_p", top_p, 0.0, 1.0, instead=1.0, above=True),
        )

    def _sample(
        self, errors, labels, seeds, temperature, top_k=None, top_p=None, guidance_scale=None
    ):
        """Runs the cheapest loop that serves every row: guidance doubles it, filters sort."""

        def sample(guidance_scale):
            filtered, plain = (
                lambda filters=filters: self.vim.sample_tokens(
                    labels, seeds, temperature, *filters, guidance_scale
                )
                for filters in ((top_k, top_p), (None, None))
            )
            if top_k is None:
                return plain()
            return tf.cond(tf.reduce_any((top_k > 0) | (top_p < 1.0)), filtered, plain)

        if guidance_scale is None:
            tokens = sample(None)
        else:
            guides = tf.reduce_any(guidance_scale != 1.0)
            tokens = tf.cond(guides, lambda: sample(guidance_scale), lambda: sample(None))
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
        codes = self.tokenizer.config.quantizer.codes
        wrong = (tokens < 0) | (tokens >= codes)  # [B,N]
        first = tf.argmax(wrong, axis=1, output_type=tf.int32)
        value = tf.gather(tokens, first, axis=1, batch_dims=1)  # [B]
        check = _Check(tf.shape(tokens)[0])
        check.range("tokens", value, 0, codes - 1, instead=0)
        return tf.where(wrong, 0, tokens), check.errors


class _Check:
    """Collects the first mistake of each row: `errors` [B] string."""

    def __init__(self, rows):
        self.errors = tf.fill([rows], "")

    def range(self, name, values, low, high, instead, above=False):
        """Returns [B] values within low..high, `instead` for the others.

        Args:
            name: of the input.
            values: [B].
            low: the smallest allowed, or with `above` the largest that is not.
            high: the largest allowed; None is any finite number.
            instead: a good value.
            above: whether `low` itself is refused.
        """
        good = values > low if above else values >= low  # false for NaN
        allowed = f"{'above' if above else 'at least'} {low}"
        if high is None:
            good &= tf.math.is_finite(values)
        else:
            good &= values <= high
            allowed = f"above {low} and at most {high}" if above else f"from {low} to {high}"
        written = tf.strings.as_string(values, shortest=values.dtype.is_floating)
        message = tf.strings.join([f"{name} is ", written, f"; it must be {allowed}"])
        self.errors = tf.where((self.errors == "") & ~good, message, self.errors)
        return tf.where(good, values, tf.cast(instead, values.dtype))


def _check_seed(check, seed):
    """Seeds [B] int64 -> [B] int32; those above 2^31 wrap around, as in `VIM.generate`."""
    return tf.cast(check.range("seed", seed, *SEEDS, instead=0), tf.int32)


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
