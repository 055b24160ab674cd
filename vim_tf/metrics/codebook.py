"""How much of a codebook is used (Table 4 of https://arxiv.org/abs/2110.04627)."""

import numpy as np

PAPER_BATCH = 256  # images over which the paper counts


def codebook_usage(tokens: np.ndarray, codes: int, batch: int = PAPER_BATCH) -> dict[str, float]:
    """Usage by the paper's definition, and two measures of what it does not show.

    Args:
        tokens: int [M,N], the tokens of M held-out images.
        codes: size K of the codebook.
        batch: images counted together.

    Returns:
        dict: `usage`, the share of codes that a batch of 256 images uses, averaged over the full
        batches (with fewer images than one batch: the share that all images use); `perplexity`,
        the exponential of the entropy of all tokens, K at most; `dead_codes`, the number of
        codes that no token uses.
    """
    whole = len(tokens) // batch * batch
    groups = np.split(tokens[:whole], whole // batch) if whole else [tokens]
    counts = np.bincount(tokens.ravel(), minlength=codes)
    share = counts[counts > 0] / counts.sum()
    return {
        "usage": float(np.mean([len(np.unique(group)) / codes for group in groups])),
        "perplexity": float(np.exp(-np.sum(share * np.log(share)))),
        "dead_codes": int(np.sum(counts == 0)),
    }
