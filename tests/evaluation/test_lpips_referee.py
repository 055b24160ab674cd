"""Compares our LPIPS with the authors' package, with the same random weights.

`make test-referees` runs it.
"""

import numpy as np
import pytest

from vim_tf.evaluation.lpips import open_lpips

pytestmark = pytest.mark.large


def test_distances_equal_the_authors(ask, lpips_tensors):
    rng = np.random.default_rng(1)
    a = rng.uniform(-1, 1, (10, 21, 50, 3)).astype("float32")
    # From almost equal to completely different.
    share = np.linspace(0.01, 1, 10, dtype="float32")[:, None, None, None]
    b = (1 - share) * a + share * rng.uniform(-1, 1, a.shape).astype("float32")
    answer = ask("lpips_distances.py", {"a": a, "b": b, **lpips_tensors})
    # With the file that the script wrote from the package, not with our file.
    ours = open_lpips(str(answer["path"]))(a, b)
    np.testing.assert_allclose(ours, answer["distances"], rtol=1e-5)
    assert ours.max() > 10 * ours.min() > 0
