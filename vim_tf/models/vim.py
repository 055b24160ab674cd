"""VIM, the autoregressive model of tokens (section 3.4 of https://arxiv.org/abs/2110.04627)."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import keras
from keras import initializers, layers, ops
from numpy.typing import ArrayLike

from vim_tf.annotations import Tensor
from vim_tf.config.checks import MOST_CLASSES, MOST_CODES, MOST_TOKENS, require, sizes, tokens
from vim_tf.config.sections import VIMConfig
from vim_tf.costs.parameters import count_vim
from vim_tf.distribution.compilation import compiled
from vim_tf.errors import UserError
from vim_tf.models.attention import Cache, fan_in_normal, hide_from, put
from vim_tf.models.preset import Preset
from vim_tf.models.seeded_dropout import RowDropout
from vim_tf.models.transformer import Transformer
from vim_tf.sampling import sample as sampling
from vim_tf.sampling.settings import check_settings

# Products of weights and tokens of an image from which on `generate` is compiled with XLA, which
# takes half a second a block: half of what 100M weights and 256 tokens come to. Of the model alone,
# or an image would depend on how many are drawn with it.
XLA_WORK = 1e10


def _embedding(rows, dim, name):
    initializer = initializers.TruncatedNormal(stddev=0.02)
    layer = layers.Embedding(rows, dim, embeddings_initializer=initializer, name=name)
    layer.build(())
    return layer


def _mean_over_slots(x):
    return ops.mean(ops.cast(x, "float32"), axis=1)


@dataclass(frozen=True)
class _Arguments:
    """What `VIM.get_config` answers, with its limits."""

    config: VIMConfig
    grid: tuple[int, int]
    codes: int
    classes: int

    def __post_init__(self):
        sizes("", rows=(self.grid[0], MOST_TOKENS), columns=(self.grid[1], MOST_TOKENS))
        tokens(*self.grid, "grid")
        sizes("", codes=(self.codes, MOST_CODES))
        require(
            0 <= self.classes <= MOST_CLASSES,
            f"classes is {self.classes}; it must be from 0 to {MOST_CLASSES:,}",
        )


@keras.saving.register_keras_serializable("vim_tf")
class VIM(Preset, keras.Model):
    """Predicts each token of an image from its label and the tokens before, in raster order.

        logits = model(tokens, labels)                # [B,N], [B] -> [B,N,K]
        tokens = model.generate(labels, seed=0)       # [B] -> [B,N]
        features = model.features(tokens, block=10)   # [B,N] -> [B,D]

    Slot i of the transformer predicts token i. It gets the label's embedding if i is 0, otherwise
    that of token i - 1, and in either case the position (row plus column) of token i. The null
    label, `classes`, stands for "no label".

    Args:
        config: `VIMConfig`.
        grid: rows and columns of tokens; N is their product.
        codes: number of codes K.
        classes: number of labels; 0 where there are none, as also if not `config.conditional`.
    """

    Arguments = _Arguments

    def __init__(
        self, config: VIMConfig, grid: tuple[int, int], codes: int, classes: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        dim = config.transformer.dim
        self.config = config
        self.grid = tuple(grid)
        self.codes = codes
        self.classes = classes if config.conditional else 0
        self.token_embedding = _embedding(codes, dim, "token_embedding")
        self.label_embedding = _embedding(self.classes + 1, dim, "label_embedding")
        self.row_embedding = _embedding(self.grid[0], dim, "row_embedding")
        self.column_embedding = _embedding(self.grid[1], dim, "column_embedding")
        self.dropout = RowDropout(config.transformer.dropout, salt=0)
        self.transformer = Transformer(config.transformer, causal=True, salt=1, name="transformer")
        self.norm = layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.head = layers.Dense(codes, kernel_initializer=fan_in_normal(dim), name="head")
        for layer in (self.transformer, self.norm, self.head):
            layer.build((None, self.tokens_per_image, dim))
        self.built = True

    @property
    def tokens_per_image(self) -> int:
        """Number of tokens N of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def transformers(self) -> tuple[Transformer, ...]:
        """Its one transformer."""
        return (self.transformer,)

    # Forward ------------------------------------------------------------------------------------

    def _labels(self, labels, batch):
        """Labels [B], or the null label for all where there are none."""
        if labels is None or self.classes == 0:
            return ops.full((batch,), self.classes, dtype="int32")
        return labels

    def _positions(self, places):
        """Places in raster order, int32 of any shape -> their embeddings [...,D]."""
        columns = self.grid[1]
        return self.row_embedding(places // columns) + self.column_embedding(places % columns)

    def _embed(self, tokens, labels, training):
        """Tokens [B,N] and labels [B] or None -> the transformer's inputs [B,N,D]."""
        length = self.tokens_per_image
        if len(tokens.shape) != 2 or tokens.shape[1] != length:
            raise ValueError(
                f"tokens have the shape {tuple(tokens.shape)}; a grid of {self.grid[0]} x "
                f"{self.grid[1]} needs [batch, {length}]"
            )
        labels = self._labels(labels, ops.shape(tokens)[0])
        first = ops.expand_dims(self.label_embedding(labels), 1)  # [B,1,D]
        x = ops.concatenate([first, self.token_embedding(tokens[:, :-1])], axis=1)  # [B,N,D]
        return self.dropout(x + self._positions(ops.arange(length)), training=training)

    def _logits(self, x):
        return ops.cast(self.head(self.norm(x)), "float32")

    def call(
        self, tokens: Tensor, labels: Tensor | None = None, training: bool | None = None
    ) -> Tensor:
        """Predicts every token from its label and the tokens before it.

        Args:
            tokens: [B,N] int32 from 0 to K - 1, raster order.
            labels: [B] int32 from 0 to `classes`, which is the null label; None is the null label
                for all. Not read by a model without labels.
            training: whether dropout acts.

        Returns:
            Logits [B,N,K] float32; those at i are for token i and depend on tokens 0..i-1 only.

        Raises:
            ValueError: tokens of another shape.
        """
        x = self._embed(tokens, labels, training)
        return self._logits(self.transformer(x, training=training))

    def features(self, tokens: Tensor, block: int, labels: Tensor | None = None) -> Tensor:
        """Mean over the N slots of one block's output, for linear probes (section 3.4).

        Args:
            tokens: [B,N] int32.
            block: number of the block, from 1; 0 takes the embeddings. The paper: 10 of base's 24.
            labels: [B] int32 or None, as in `call`.

        Returns:
            [B,D] float32.

        Raises:
            UserError: there is no such block.
        """
        blocks = self.transformer.blocks
        if not 0 <= block <= len(blocks):
            raise UserError(
                f"block is {block}; this model has blocks 1 to {len(blocks)}, 0 is the embeddings"
            )
        x = self._embed(tokens, labels, training=False)
        for layer in blocks[:block]:
            x = layer(x, training=False)
        return _mean_over_slots(x)

    def block_features(self, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
        """`features` of the embeddings and of all blocks, in one pass: [B,blocks+1,D] float32."""
        x = self._embed(tokens, labels, training=False)
        means = [_mean_over_slots(x)]
        for layer in self.transformer.blocks:
            x = layer(x, training=False)
            means.append(_mean_over_slots(x))
        return ops.stack(means, axis=1)

    def attention_weights(self, tokens: Tensor, labels: Tensor | None = None) -> Iterator[Tensor]:
        """Yields each block's attention weights, [B,heads,N,N] float32; arguments as in `call`.

        Row i is of the slot that predicts token i. Its column 0 is the label's slot, and its column
        j > 0 that of token j - 1; columns after i are 0.
        """
        return self.transformer.attention_weights(self._embed(tokens, labels, training=False))

    # Generation ---------------------------------------------------------------------------------

    def init_cache(self, batch: int | Tensor) -> tuple[Cache, ...]:
        """Returns an empty key/value cache for `batch` rows, one entry a block."""
        length = self.tokens_per_image
        return tuple(
            block.init_cache(batch, length, self.compute_dtype) for block in self.transformer.blocks
        )

    def next_logits(
        self, previous: Tensor, position: Tensor, cache: tuple[Cache, ...], labels: Tensor
    ) -> tuple[Tensor, tuple[Cache, ...]]:
        """One position of `call`, for `sampling.generate_tokens`.

        Args:
            previous: [B] int32, the tokens at `position - 1`; not read at position 0.
            position: int32 scalar.
            cache: of the positions before, as from `init_cache`.
            labels: [B] int32, the null label included.

        Returns:
            (logits [B,K] float32 for the token at `position`, the extended cache).
        """
        hidden = hide_from(position, self.tokens_per_image)
        logits, entries = self.next_logits_reading(previous, position, cache, labels, hidden)
        pairs = zip(cache, entries, strict=True)
        return logits, tuple(put(block, entry, position) for block, entry in pairs)

    def next_logits_reading(
        self,
        previous: Tensor,
        position: Tensor,
        cache: tuple[Cache, ...],
        labels: Tensor,
        hidden: Tensor,
    ) -> tuple[Tensor, tuple[Cache, ...]]:
        """`next_logits` for a caller that keeps the cache, such as LiteRT's.

        Args:
            previous: as in `next_logits`.
            position: as in `next_logits`.
            cache: keys and values of each block, [B,heads,M,head_dim] for any M.
            labels: as in `next_logits`.
            hidden: [M] float32, 0 for the positions before, `HIDDEN` for what else is in the cache.

        Returns:
            (logits [B,K] float32, the key and value of `position` in each block, a pair of
            [B,heads,1,head_dim] each, to be put at `position` into that block's cache).
        """
        x, found = self._embed_step(previous, position, labels), []
        for block, block_cache in zip(self.transformer.blocks, cache, strict=True):
            x, entry = block.step(x, block_cache, hidden)
            found.append(entry)
        return self._logits(x)[:, 0], tuple(found)

    def _embed_step(self, previous, position, labels):
        """The transformer's input at one position, [B,1,D]."""
        first = ops.equal(position, 0)
        x = ops.where(first, self.label_embedding(labels), self.token_embedding(previous))
        return ops.expand_dims(x + self._positions(position), 1)

    def _compile(self, function, rows, **options):
        function = functools.partial(function, **options) if options else function
        xla = self.count_params() * self.tokens_per_image > XLA_WORK
        return compiled(function, self.variables, rows=rows, xla=xla)

    def _compiled(self, modify_logits=None):
        """(`sample_tokens`, `_generate_segment`), compiled at the first use.

        Then the strategy in scope shares the rows. Those of one `modify_logits` are kept beside
        those of none. No property: Keras reads all of a model's when it loads weights.
        """
        kept = self.__dict__.setdefault("_kept", {})  # Keras' __setattr__ would track it
        if modify_logits not in kept:
            options = {"modify_logits": modify_logits} if modify_logits else {}
            functions = (
                self._compile(self.sample_tokens, True, **options),
                self._compile(self._generate_segment, False, **options),
            )
            of_none = {None: kept[None]} if None in kept else {}
            self.__dict__["_kept"] = kept = {**of_none, modify_logits: functions}
        return kept[modify_logits]

    def _generate_segment(self, start, stop, tokens, cache, labels, *settings, modify_logits=None):
        """`sampling.generate_tokens` of this model; labels are doubled if it guides."""

        def next_logits(previous, position, cache):
            return self.next_logits(previous, position, cache, labels)

        options = {"start": start, "stop": stop, "modify_logits": modify_logits}
        return sampling.generate_tokens(next_logits, cache, tokens, *settings, **options)

    def sample_tokens(
        self,
        labels: Tensor,
        seeds: Tensor,
        temperature: Tensor,
        top_k: Tensor | None = None,
        top_p: Tensor | None = None,
        guidance_scale: Tensor | None = None,
        modify_logits: sampling.ModifyLogits | None = None,
    ) -> Tensor:
        """Samples images as tokens, on tensors alone and unchecked: for the inside of a graph.

        The arguments are the fields of `sampling.settings.Settings` as tensors, and `modify_logits`
        as in `sampling.draw`. Returns tokens [B,N] int32, those of `generate` for the same rows.
        """
        start = self._start(labels, seeds, temperature, top_k, top_p, guidance_scale)
        tokens, _ = self._generate_segment(
            0, self.tokens_per_image, *start, modify_logits=modify_logits
        )
        return ops.transpose(tokens)

    def _start(self, labels, *settings):
        """What `_generate_segment` takes at position 0; settings as `sample_tokens` has them."""
        tokens = ops.zeros((self.tokens_per_image, ops.shape(labels)[0]), "int32")
        if settings[-1] is not None:  # guidance
            labels = ops.concatenate([labels, ops.full_like(labels, self.classes)])  # [2B]
        return tokens, self.init_cache(ops.shape(labels)[0]), labels, *settings

    def generate(
        self,
        labels: ArrayLike | None = None,
        seed: ArrayLike = 0,
        *,
        n: int | None = None,
        temperature: ArrayLike = 1.0,
        top_k: ArrayLike = 0,
        top_p: ArrayLike = 1.0,
        guidance_scale: ArrayLike = 1.0,
        callback: Callable[[int, int], object] | None = None,
        modify_logits: sampling.ModifyLogits | None = None,
    ) -> Tensor:
        """Samples images as tokens. A row's tokens do not depend on the other rows.

        Every setting is a number for all rows or an array [B]. The first call with a new B
        compiles, and so does the first that filters (top_k, top_p) or guides.

        Args:
            labels: integers from 0 to `classes - 1`, one or [B]; None is the null label.
            seed: an integer from -2^31 to 2^32 - 1, from which each row gets its own by
                `sampling.row_seeds`; or an array [B] of the rows' seeds.
            n: number of rows B; needed only where no array says it.
            temperature: at least 0; 0 is greedy, 1 the model's own distribution.
            top_k: draw among this many best codes; 0 is off.
            top_p: draw among the best codes that together have this probability; 1 is off.
            guidance_scale: classifier-free guidance, at least 0; 1 is off and costs nothing.
            callback: called as `callback(done, total)` with numbers of tokens an image, after each
                row of the grid. The tokens are the same with and without.
            modify_logits: function (logits [B,K] float32, position int32 scalar) -> logits [B,K],
                of `keras.ops`, for samplers that are not here; it is compiled, so give the same
                object again. Called after guidance, before temperature and filters.

        Returns:
            Tokens [B,N] int32.

        Raises:
            UserError: a value out of range, lengths that disagree; see `sampling.settings`.
        """
        settings = check_settings(
            self.codes,
            self.classes,
            labels,
            seed,
            n=n,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            guidance_scale=guidance_scale,
            label_drop=self.config.label_drop,
        )
        fixed = [None if x is None else ops.convert_to_tensor(x) for x in settings]
        sample, segment = self._compiled(modify_logits)
        if callback is None:
            return sample(*fixed)
        length, part = self.tokens_per_image, self.grid[1]
        tokens, cache, *fixed = self._start(*fixed)
        for start in range(0, length, part):
            limits = [ops.convert_to_tensor(x, "int32") for x in (start, start + part)]
            tokens, cache = segment(*limits, tokens, cache, *fixed)
            callback(start + part, length)
        return ops.transpose(tokens)

    # Saving -------------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs."""
        return {
            "config": asdict(self.config),
            "grid": list(self.grid),
            "codes": self.codes,
            "classes": self.classes,
        }

    @staticmethod
    def count_parameters(arguments: Any) -> int:
        """Returns the number of weights of a model, from its checked arguments."""
        return count_vim(**vars(arguments))
