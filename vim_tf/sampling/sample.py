"""Drawing tokens from logits, so that a row's tokens depend on that row alone.

An inverse cumulative sum turns differences of 1e-5, which the logits of one image have between
batch sizes, into other tokens. Here each code's logit gets Gumbel noise, a hash of (the row's seed,
the position, the code), and the largest sum wins: an exact sample of the softmax (the Gumbel-max
trick, arXiv 1411.0030), whatever else is in the batch.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from keras import ops

from vim_tf.annotations import Tensor
from vim_tf.noise import mix

# (logits [B,K], position) -> logits [B,K], see `draw`.
ModifyLogits: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# (previous [B], position, cache) -> (logits [B,K], cache), see `generate_tokens`.
NextLogits: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
DROPPED = -1e9  # the logit of a code that may not be drawn; finite, so that no NaN can arise
# Constants of the hash, one for each of the things that it mixes.
SEED_SALT, POSITION_SALT, CODE_SALT = np.array([0x9E3779B9, 0x7F4A7C15, 0xF39CC060], "uint32")


# Noise ------------------------------------------------------------------------------------------


def _uint32(x, salt):
    """Casts integers to uint32, negative ones wrapping around, and adds a constant.

    The constant keeps 0, which `mix` maps to itself, out of the hash.
    """
    return ops.add(ops.cast(x, "uint32"), salt)


def row_seeds(seed: Tensor, rows: int) -> Tensor:
    """Derives a seed for each row from one seed; no two rows get the same.

    Args:
        seed: int32 or uint32 scalar.
        rows: number of rows B. The first ones are the same for any B.

    Returns:
        [B] int32, any value.
    """
    first = mix(_uint32(seed, SEED_SALT))
    # Exclusive-or of hashes, not a sum: two seeds would share whole stretches of rows.
    return ops.cast(mix(ops.bitwise_xor(first, mix(_uint32(ops.arange(rows), CODE_SALT)))), "int32")


def noise_bits(seeds: Tensor, position: Tensor, codes: int) -> Tensor:
    """Returns the hash of (seed, position, code): [B,K] uint32, the same on every backend.

    The arguments are those of `gumbel_noise`.
    """
    row = mix(_uint32(seeds, SEED_SALT))  # [B]
    # Exclusive-or of hashes, not a sum: two seeds would share whole stretches of a sum.
    row = mix(ops.bitwise_xor(row, mix(_uint32(position, POSITION_SALT))))
    code = mix(_uint32(ops.arange(codes), CODE_SALT))  # [K]
    return mix(ops.bitwise_xor(ops.expand_dims(row, 1), ops.expand_dims(code, 0)))


def gumbel_noise(seeds: Tensor, position: Tensor, codes: int) -> Tensor:
    """Standard Gumbel noise that depends on (seed, position, code) only.

    The bits below the logarithms are equal everywhere; the logarithms differ in the last place
    between kernels, XLA's and others.

    Args:
        seeds: [B] int32 or uint32.
        position: int32 scalar.
        codes: number of codes K.

    Returns:
        [B,K] float32, from -2.8 to 16.7.
    """
    bits = ops.bitwise_right_shift(noise_bits(seeds, position, codes), 9)
    # 23 bits: one more, and + 0.5 would round up to 1, whose noise is infinite.
    uniform = (ops.cast(bits, "float32") + 0.5) * 2.0**-23
    return -ops.log(-ops.log(uniform))


# One token --------------------------------------------------------------------------------------


def best_code(logits: Tensor) -> Tensor:
    """Returns the code of the largest logit: [B,K] -> [B] int32; of equal ones the lowest code.

    `ops.argmax` of floats would break TFLite and TF.js.
    """
    return ops.cast(ops.top_k(logits, 1)[1][:, 0], "int32")


def _heat(logits, temperature):
    """Divides logits [B,K], less the best of the row, by the temperature [B]."""
    best = ops.max(logits, axis=1, keepdims=True)
    return (logits - best) / ops.maximum(ops.expand_dims(temperature, 1), 1e-6)


def filter_logits(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Divides logits by the temperature and drops the codes that may not be drawn.

    First all but the `top_k` best codes go, then those beyond the smallest set of best codes whose
    probability, at this temperature and among the `top_k`, reaches `top_p` (arXiv 1904.09751). At
    least the best code stays. Where the last place of the set falls among equal logits, the lower
    codes stay, so that exactly `top_k` codes stay, the same ones everywhere.

    Args:
        logits: [B,K] float32.
        temperature: [B] float32, at least 0; below 1e-6 it counts as 1e-6.
        top_k: [B] int32; 0 is off.
        top_p: [B] float32 from 0 to 1; 1 is off.

    Returns:
        [B,K] float32: the scaled logits, the largest 0; `DROPPED` where dropped.
    """
    codes = logits.shape[-1]
    descending = ops.top_k(logits, codes)[0]  # [B,K]
    limit = ops.expand_dims(ops.where(top_k > 0, top_k, codes), 1)
    within = ops.arange(codes) < limit  # [B,K], by rank as `descending`
    share = ops.softmax(ops.where(within, _heat(descending, temperature), DROPPED))
    before = ops.cumsum(share, axis=1) - share  # probability of the better codes
    top_p = ops.expand_dims(top_p, 1)
    within = ops.logical_and(within, ops.logical_or(before < top_p, top_p >= 1))
    kept = ops.maximum(ops.sum(ops.cast(within, "int32"), axis=1, keepdims=True), 1)  # [B,1]
    # No second sort to get back to the order of codes: compare with the last logit that stays.
    last = ops.take_along_axis(descending, kept - 1, axis=1)
    above = logits > last
    equal = logits == last
    room = kept - ops.sum(ops.cast(above, "int32"), axis=1, keepdims=True)
    first_equals = ops.logical_and(equal, ops.cumsum(ops.cast(equal, "int32"), axis=1) <= room)
    stays = ops.logical_or(above, first_equals)
    return ops.where(stays, _heat(logits, temperature), DROPPED)


def sample_token(
    logits: Tensor,
    seeds: Tensor,
    position: Tensor,
    temperature: Tensor,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
) -> Tensor:
    """Draws one token a row.

    Args:
        logits: [B,K] float32.
        seeds: [B] int32 or uint32.
        position: int32 scalar; the noise of each position is another.
        temperature: [B] float32, at least 0; 0 takes the best code, as `top_k` 1 does.
        top_k: [B] int32, 0 is off; or None: off for all rows, and so is `top_p`.
        top_p: [B] float32 above 0, at most 1, which is off. Where both are off for all rows, the
            codes are not sorted.

    Returns:
        [B] int32.
    """
    if top_k is None or top_p is None:
        scaled = _heat(logits, temperature)
    else:
        scaled = ops.cond(
            ops.any(ops.logical_or(top_k > 0, top_p < 1)),
            lambda: filter_logits(logits, temperature, top_k, top_p),
            lambda: _heat(logits, temperature),
        )
    drawn = best_code(scaled + gumbel_noise(seeds, position, logits.shape[-1]))
    return ops.where(temperature > 0, drawn, best_code(logits))


def guided_logits(conditional: Tensor, null: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): null + scale * (conditional - null).

    Args:
        conditional: [B,K], logits given the label.
        null: [B,K], logits given the null label.
        scale: [B]; 1 gives `conditional`, exactly.

    Returns:
        [B,K].
    """
    return conditional + ops.expand_dims(scale - 1.0, 1) * (conditional - null)


def draw(
    logits: Tensor,
    position: Tensor,
    seeds: Tensor,
    temperature: Tensor,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    guidance_scale: Tensor | None = None,
    modify_logits: ModifyLogits | None = None,
) -> Tensor:
    """Draws one token a row, from the logits that guidance makes if there is any.

    Args:
        logits: [B,K] float32; with guidance [2B,K], those of the labels first, then those of the
            null label.
        position: int32 scalar.
        seeds: as in `sample_token`.
        temperature: as in `sample_token`.
        top_k: as in `sample_token`.
        top_p: as in `sample_token`.
        guidance_scale: [B] float32 as in `guided_logits`, or None.
        modify_logits: function (logits [B,K], position) -> logits [B,K], called after guidance and
            before temperature and filters; None changes nothing.

    Returns:
        [B] int32.
    """
    if guidance_scale is not None:
        conditional, null = ops.split(logits, 2, axis=0)
        logits = guided_logits(conditional, null, guidance_scale)
    if modify_logits is not None:
        logits = modify_logits(logits, position)
    return sample_token(logits, seeds, position, temperature, top_k, top_p)


# All tokens -------------------------------------------------------------------------------------


def generate_tokens(
    next_logits: NextLogits,
    cache: Tensor,
    tokens: Tensor,
    seeds: Tensor,
    temperature: Tensor,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    guidance_scale: Tensor | None = None,
    start: int | Tensor = 0,
    stop: int | Tensor | None = None,
    modify_logits: ModifyLogits | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws the tokens of positions `start` to `stop - 1`, one after the other.

    Calling it for 0..5 and then for 5..N gives the same tokens as once for 0..N.

    Args:
        next_logits: function (previous [B] int32, position int32 scalar, cache) -> (logits [B,K]
            float32, cache), called at each position in turn; `previous` is the token before, 0 at
            position 0. With guidance it gets 2B rows, the same tokens twice, and answers for the
            labels in the first half and for the null label in the second.
        cache: anything nested that keeps its shapes; as `next_logits` needs it at `start`.
        tokens: [N,B] int32, time first; those before `start` are read, the others overwritten.
        seeds: [B] int32 or uint32.
        temperature: [B] float32; with `top_k` and `top_p` as in `sample_token`.
        top_k: [B] int32, or None.
        top_p: [B] float32, or None.
        guidance_scale: [B] float32 as in `guided_logits`, or None: no guidance, no doubled batch.
        start: int or int32 scalar.
        stop: int or int32 scalar; by default N.
        modify_logits: as in `draw`.

    Returns:
        (tokens [N,B] int32, cache).
    """
    stop = ops.convert_to_tensor(tokens.shape[0] if stop is None else stop, "int32")

    def step(position, tokens, cache):
        previous = ops.take(tokens, ops.maximum(position - 1, 0), axis=0)  # [B]
        previous = ops.where(position > 0, previous, 0)
        if guidance_scale is not None:
            previous = ops.tile(previous, (2,))
        logits, cache = next_logits(previous, position, cache)
        token = draw(
            logits, position, seeds, temperature, top_k, top_p, guidance_scale, modify_logits
        )
        place = ops.reshape(position, (1, 1))
        tokens = ops.scatter_update(tokens, place, ops.expand_dims(token, 0))
        return position + 1, tokens, cache

    _, tokens, cache = ops.while_loop(
        lambda position, tokens, cache: position < stop,
        step,
        (ops.convert_to_tensor(start, "int32"), tokens, cache),
    )
    return tokens, cache
