"""`sampling.draw` in NumPy, for `LiteVIM`.

TensorFlow hands each call to its own threads, which wait for LiteRT's; that takes longer than
the draw.
"""

import numpy as np

from vim_tf.noise import mix_array
from vim_tf.sampling.sample import CODE_SALT, POSITION_SALT, SEED_SALT, ModifyLogits


def draw(
    logits: np.ndarray,
    position: int,
    seeds: np.ndarray,
    temperature: np.ndarray,
    top_k: np.ndarray | None = None,
    top_p: np.ndarray | None = None,
    guidance_scale: np.ndarray | None = None,
    modify_logits: ModifyLogits | None = None,
) -> np.ndarray:
    """Draws one token a row: as `sampling.draw`, up to roundings of logarithms and sums.

    The arguments are those of `sampling.draw`, as NumPy arrays.

    Returns:
        [B] int32.
    """
    if guidance_scale is not None:
        conditional, null = np.split(logits, 2)
        logits = conditional + (guidance_scale - np.float32(1))[:, None] * (conditional - null)
    if modify_logits is not None:
        logits = np.asarray(modify_logits(logits, position))
    seeds = mix_array(_uint32(seeds, SEED_SALT))
    seeds = mix_array(seeds ^ mix_array(_uint32(np.array([position]), POSITION_SALT)))
    hashes = mix_array(_uint32(np.arange(logits.shape[-1]), CODE_SALT))
    tokens = np.empty(len(seeds), "int32")
    for i, row in enumerate(logits):  # one by one they stay in the cache of a core
        if temperature[i] == 0:
            tokens[i] = row.argmax()
            continue
        scaled = (row - row.max()) / max(temperature[i], np.float32(1e-6))
        if top_k is None or top_p is None:
            tokens[i] = (scaled + _gumbel(seeds[i] ^ hashes)).argmax()
        else:
            kept = _keep(row, scaled, top_k[i], top_p[i])
            tokens[i] = kept[(scaled[kept] + _gumbel(seeds[i] ^ hashes[kept])).argmax()]
    return tokens


def _keep(logits, scaled, top_k, top_p):
    """The codes, in their order, that `sampling.filter_logits` keeps: logits [K] -> at most [K]."""
    share = np.exp(np.sort(scaled)[::-1][: top_k or None])
    share /= share.sum()
    before = share.cumsum() - share  # probability of the better codes
    count = max(np.count_nonzero(before < top_p), 1) if top_p < 1 else len(share)
    last = np.partition(logits, -count)[-count]
    above, equal = np.flatnonzero(logits > last), np.flatnonzero(logits == last)
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))


def _gumbel(x):
    """`sampling.gumbel_noise` of (row's hash ^ code's hash): uint32 -> float32."""
    uniform = ((mix_array(x) >> np.uint32(9)).astype("float32") + np.float32(0.5)) * np.float32(
        2**-23
    )
    return -np.log(-np.log(uniform))


def _uint32(x, salt):
    return x.astype("uint32") + salt
