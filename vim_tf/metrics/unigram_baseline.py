"""The baseline of stage 2: a model that knows only the frequencies of codes at each position."""

import numpy as np

from vim_tf.annotations import Tensor

# The values to try if no smoothing is given: from almost none to almost uniform.
STRENGTHS = tuple(2.0**power for power in range(-12, 5))


def unigram_nats(
    train_tokens: np.ndarray | Tensor,
    held_out: np.ndarray | Tensor,
    codes: int,
    smoothing: float | None = None,
) -> float:
    """Mean negative log-likelihood of held-out tokens under frequencies of training tokens.

    At position i code k has the probability (count + smoothing) / (M + smoothing * K), where
    `count` of the M training images have k there (additive smoothing).

    Args:
        train_tokens: [M,N] int; the rows may be of several augmented passes.
        held_out: [P,N] int.
        codes: number of codes K.
        smoothing: pseudo-count of each code, above 0. None uses the one of `STRENGTHS` that is best
            on `held_out` itself. This favours the baseline: a model that beats it beats the
            baseline with any of them.

    Returns:
        Nats a token; ln K for uniform frequencies.

    Raises:
        ValueError: the shapes do not match, or tokens are out of range.
    """
    train_tokens, held_out = np.asarray(train_tokens), np.asarray(held_out)
    for name, tokens in (("train_tokens", train_tokens), ("held_out", held_out)):
        if tokens.ndim != 2 or tokens.shape[1] != train_tokens.shape[-1] or not tokens.size:
            raise ValueError(
                f"{name} has the shape {tokens.shape}, train_tokens {train_tokens.shape}; "
                "give [images, N] with the same N and at least one image"
            )
        if tokens.min() < 0 or tokens.max() >= codes:
            raise ValueError(f"{name} go from {tokens.min()} to {tokens.max()}; codes is {codes}")
    # For each held-out token: the number of training images with the same token at its position.
    counts = np.stack(
        [
            np.bincount(train_tokens[:, place], minlength=codes)[held_out[:, place]]
            for place in range(held_out.shape[1])
        ],
        axis=1,
    )  # [P,N]
    strengths = STRENGTHS if smoothing is None else (smoothing,)
    images = len(train_tokens)
    return min(
        float(-np.mean(np.log((counts + strength) / (images + strength * codes))))
        for strength in strengths
    )
