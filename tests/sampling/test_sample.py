import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy import stats

from vim_tf.sampling import sample as sampling


def numpy_mix(x):
    x = np.asarray(x, "uint64") & 0xFFFFFFFF
    x = ((x ^ x >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ x >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ x >> 16


def numpy_bits(seeds, position, codes):
    row = numpy_mix(np.asarray(seeds, "int64") + 0x9E3779B9)
    row = numpy_mix(row ^ numpy_mix(position + 0x7F4A7C15))
    return numpy_mix(row[:, None] ^ numpy_mix(np.arange(codes) + 0xF39CC060)[None])


def noise(seeds, position, codes):
    return np.asarray(sampling.gumbel_noise(np.asarray(seeds, "int32"), position, codes))


def uniform(*args):
    return np.exp(-np.exp(-noise(*args).astype("float64")))


# Noise ------------------------------------------------------------------------------------------

SEEDS = np.array([0, 1, 2, -1, -(2**31), 2**31 - 1, 123_456_789], "int32")


@pytest.mark.parametrize("position", [0, 1, 1023])
def test_noise_bits_are_the_same_everywhere(position):
    expected = numpy_bits(SEEDS, position, 1000)
    graph = tf.function(sampling.noise_bits)
    xla = tf.function(sampling.noise_bits, jit_compile=True)
    inputs = (tf.constant(SEEDS), tf.constant(position), 1000)
    for function in (sampling.noise_bits, graph, xla):
        np.testing.assert_array_equal(np.asarray(function(*inputs)), expected)


def test_unsigned_seeds_are_the_signed_ones():
    for name in ("int32", "uint32"):
        bits = sampling.noise_bits(SEEDS.view(name), 3, 10)
        np.testing.assert_array_equal(np.asarray(bits), numpy_bits(SEEDS, 3, 10))


def test_noise_is_the_gumbel_quantile_of_the_bits():
    share = ((numpy_bits(SEEDS, 5, 5000) >> 9) + 0.5) / 2**23
    expected = -np.log(-np.log(share))
    inputs = (tf.constant(SEEDS), tf.constant(5), 5000)
    for jit_compile in (False, True):
        graph = tf.function(sampling.gumbel_noise, jit_compile=jit_compile)
        # XLA's logarithms differ from others in the last digit of float32.
        np.testing.assert_allclose(graph(*inputs), expected, rtol=2e-6, atol=2e-6)


def test_noise_is_finite_at_both_ends(monkeypatch):
    ends = np.array([[0, 2**32 - 1]], "uint32")
    monkeypatch.setattr(sampling, "noise_bits", lambda *_: ops.convert_to_tensor(ends))
    low, high = np.asarray(sampling.gumbel_noise([0], 0, 2))[0]
    assert -2.82 < low < -2.80 and 16.6 < high < 16.7


@pytest.mark.parametrize(
    "seeds", [np.arange(128), sampling.row_seeds(7, 128), np.arange(128) * 65_536]
)
def test_noise_is_gumbel(seeds):
    across = uniform(seeds, 11, 1024).ravel()
    assert stats.kstest(across, "uniform", method="asymp").pvalue > 0.01
    by_position = np.stack([uniform(seeds[:1], position, 64)[0] for position in range(128)])
    assert stats.kstest(by_position.ravel(), "uniform", method="asymp").pvalue > 0.01


@pytest.mark.parametrize("neighbour", ["seed", "position", "code", "seed and code"])
def test_neighbours_are_independent(neighbour):
    a = uniform(np.arange(64), 20, 1025)
    if neighbour == "seed":
        a, b = a[:-1], a[1:]
    elif neighbour == "position":
        b = uniform(np.arange(64), 21, 1025)
    elif neighbour == "code":
        a, b = a[:, :-1], a[:, 1:]
    else:
        a, b = a[:-1, 1:], a[1:, :-1]
    table, _, _ = np.histogram2d(a.ravel(), b.ravel(), bins=16, range=[[0, 1], [0, 1]])
    assert stats.chisquare(table.ravel()).pvalue > 0.01  # uniform on the square: independent
    assert abs(stats.spearmanr(a.ravel(), b.ravel()).statistic) < 0.015


def test_a_changed_bit_of_the_seed_changes_half_of_the_bits():
    base = numpy_bits([12_345], 3, 4096)
    for bit in range(32):
        seed = np.array([12_345 ^ (1 << bit)], "uint32").view("int32")
        changed = np.unpackbits((base ^ numpy_bits(seed, 3, 4096)).astype("uint32").view("uint8"))
        assert abs(changed.mean() - 0.5) < 0.01


def test_row_seeds_are_distinct_and_do_not_depend_on_the_number_of_rows():
    many = np.asarray(sampling.row_seeds(3, 100_000))
    assert many.dtype == np.int32 and len(np.unique(many)) == 100_000
    np.testing.assert_array_equal(sampling.row_seeds(3, 8), many[:8])
    rows = numpy_mix((np.arange(8, dtype="uint64") + 0xF39CC060) & 0xFFFFFFFF)
    expected = numpy_mix(numpy_mix(3 + 0x9E3779B9) ^ rows)
    np.testing.assert_array_equal(many[:8].view("uint32"), expected)
    assert len(np.intersect1d(many, sampling.row_seeds(4, 100_000))) < 20  # by chance: 2.3


# Filter -----------------------------------------------------------------------------------------


def numpy_filter(logits, temperature, top_k, top_p):
    """Filters one row by the definition: rank by (logit, lower code first), cut twice."""
    codes = len(logits)
    order = sorted(range(codes), key=lambda code: (-logits[code], code))
    scaled = (logits.astype("float64") - logits.max()) / max(temperature, 1e-6)
    candidates = order[: top_k or codes]
    weights = np.exp(scaled[candidates])
    kept, total = [], 0.0
    for code, share in zip(candidates, weights / weights.sum(), strict=True):
        if kept and top_p < 1 and total >= top_p:
            break
        kept.append(code)
        total += share
    result = np.full(codes, sampling.DROPPED)
    result[kept] = scaled[kept]
    return result


SETTINGS = [
    # temperature, top_k, top_p
    (1.0, 0, 1.0),
    (0.7, 0, 1.0),
    (1.0, 1, 1.0),
    (1.0, 5, 1.0),
    (1.0, 40, 1.0),
    (1.0, 0, 0.3),
    (1.0, 0, 0.9),
    (1.0, 0, 0.001),
    (1.5, 7, 0.83),
    (0.3, 30, 0.97),
    (0.0, 0, 1.0),
    (1.0, 0, 0.0),
]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("decimals", [6, 0])  # 0 gives many ties, at every cut
def test_filter_matches_numpy(decimals, jit_compile):
    temperature, top_k, top_p = (np.array(column) for column in zip(*SETTINGS, strict=True))
    random = np.random.default_rng(decimals)
    rows = len(SETTINGS)
    logits = np.round(random.normal(size=(rows, 40)) * 2, decimals).astype("float32")
    expected = [numpy_filter(logits[i], *SETTINGS[i]) for i in range(rows)]
    filter_logits = tf.function(sampling.filter_logits, jit_compile=jit_compile)
    filtered = filter_logits(
        tf.constant(logits),
        tf.constant(temperature, tf.float32),
        tf.constant(top_k, tf.int32),
        tf.constant(top_p, tf.float32),
    )
    np.testing.assert_allclose(filtered, expected, rtol=1e-5, atol=1e-5)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    # Four equal codes have exactly 0.25 each. The lower two of them reach 0.5.
    for top_p, kept in ((0.25, 1), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4)):
        filtered = sampling.filter_logits(
            np.zeros((1, 4), "float32"), np.ones(1, "float32"), np.zeros(1, "int32"), [top_p]
        )
        np.testing.assert_array_equal(np.asarray(filtered)[0] == 0, np.arange(4) < kept)


def test_filter_sorts_once():
    graph = tf.function(sampling.filter_logits).get_concrete_function(
        *(tf.TensorSpec((2, 9)[:rank], dtype) for rank, dtype in ((2, "float32"), (1, "float32"))),
        tf.TensorSpec((2,), tf.int32),
        tf.TensorSpec((2,), tf.float32),
    )
    kinds = [operation.type for operation in graph.graph.get_operations()]
    assert kinds.count("TopKV2") == 1
    assert not [kind for kind in kinds if "Sort" in kind or "Unique" in kind]


# One token --------------------------------------------------------------------------------------


def draw(logits, seeds, temperature=1.0, top_k=0, top_p=1.0, position=0):
    rows = len(seeds)
    return np.asarray(
        sampling.sample_token(
            ops.convert_to_tensor(np.broadcast_to(logits, (rows, np.shape(logits)[-1])), "float32"),
            ops.convert_to_tensor(seeds, "int32"),
            position,
            np.full(rows, temperature, "float32"),
            None if top_k is None else np.full(rows, top_k, "int32"),
            np.full(rows, top_p, "float32"),
        )
    )


def test_greedy_is_argmax_and_the_lower_code_wins():
    logits = np.round(np.random.default_rng(0).normal(size=(500, 30)), 1).astype("float32")
    assert np.any(np.sum(logits == logits.max(1, keepdims=True), axis=1) > 1)  # ties occur
    seeds = np.arange(500)
    expected = logits.argmax(1)  # NumPy takes the first of equals
    for settings in (
        {"temperature": 0.0},
        {"temperature": 0.0, "top_k": None},
        {"temperature": 0.0, "top_k": 7, "top_p": 0.5},
        {"top_k": 1},
        {"top_p": 1e-6},
    ):
        np.testing.assert_array_equal(draw(logits, seeds, **settings), expected)
    assert np.any(draw(logits, seeds) != expected)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, 1.0), (1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 3, 1.0), (1.0, 0, 0.68)],
)
def test_draws_have_the_distribution_of_the_softmax(temperature, top_k, top_p):
    logits = np.log(np.array([0.05, 0.3, 0.15, 0.1, 0.2, 0.2]))
    expected = np.exp(numpy_filter(logits, temperature, top_k or 0, top_p))
    expected /= expected.sum()
    drawn = draw(logits, np.arange(20_000), temperature, top_k, top_p, position=9)
    counts = np.bincount(drawn, minlength=6)
    assert not np.any(counts[expected == 0])
    possible = expected > 0
    assert stats.chisquare(counts[possible], 20_000 * expected[possible]).pvalue > 0.01


def test_filter_that_is_off_changes_no_token():
    logits = np.random.default_rng(0).normal(size=(2000, 50))
    with_filter = draw(logits, np.arange(2000), temperature=0.9)
    np.testing.assert_array_equal(with_filter, draw(logits, np.arange(2000), 0.9, top_k=None))


def test_guidance_is_its_formula():
    random = np.random.default_rng(0)
    conditional, null = random.normal(size=(2, 4, 9)).astype("float32")
    scale = np.array([0, 1, 2.5, 7], "float32")
    guided = np.asarray(sampling.guided_logits(conditional, null, scale))
    np.testing.assert_allclose(
        guided, null + scale[:, None] * (conditional - null), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(guided[1], conditional[1])


# All tokens -------------------------------------------------------------------------------------

LETTERS = "_abcdefghijklmnopqrstuvwxyz"


def spell(words):
    """A fake `next_logits`: each row spells its word. The cache records the previous tokens."""
    table = np.zeros((len(words), len(words[0]), len(LETTERS)), "float32")
    for row, word in enumerate(words):
        for position, letter in enumerate(word):
            table[row, position, LETTERS.index(letter)] = 100

    def next_logits(previous, position, cache):
        cache = ops.scatter_update(cache, ops.reshape(position, (1, 1)), previous[None])
        return ops.take(ops.convert_to_tensor(table), position, axis=1), cache

    return next_logits, ops.zeros((len(words[0]), len(words)), "int32") - 1


def read(tokens):
    return ["".join(LETTERS[token] for token in row) for row in np.asarray(tokens).T]


def generate(next_logits, cache, length, rows, **settings):
    settings = {"temperature": np.ones(rows, "float32"), **settings}
    tokens = ops.zeros((length, rows), "int32")
    return sampling.generate_tokens(next_logits, cache, tokens, np.arange(rows), **settings)


def test_spells_words_and_passes_the_token_before():
    words = ["codebook", "tokenize", "encoders"]
    next_logits, cache = spell(words)
    tokens, told = generate(next_logits, cache, 8, 3)
    assert read(tokens) == words
    assert read(told) == ["_" + word[:-1] for word in words]  # 0 before the first


def test_parts_give_the_same_as_the_whole():
    words = ["codebook", "tokenize"]
    next_logits, cache = spell(words)
    tokens = ops.full((8, 2), 26, dtype="int32")  # "z" must not be read
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        tokens, cache = sampling.generate_tokens(
            next_logits, cache, tokens, SEEDS[:2], np.ones(2, "float32"), start=start, stop=stop
        )
        assert read(tokens[:stop]) == [word[:stop] for word in words]
        assert read(tokens[stop:]) == ["z" * (8 - stop)] * 2
    assert read(cache) == ["_codeboo", "_tokeniz"]


def test_guidance_calls_with_both_halves():
    # Conditional rows spell words. Null rows differ so much that they win with guidance below 1.
    next_logits, cache = spell(["images", "tokens", "wwwwww", "wwwwww"])
    tokens, told = generate(
        next_logits, cache, 6, 2, guidance_scale=np.array([3.0, 0.2], "float32")
    )
    assert read(tokens) == ["images", "wwwwww"]
    assert read(told) == ["_image", "_wwwww"] * 2


def chain(codes, seed=0):
    """A fake `next_logits`: a random Markov chain. Its matrix product depends on B."""
    random = np.random.default_rng(seed)
    left, right = random.normal(size=(2, codes, 24)).astype("float32")

    def next_logits(previous, position, cache):
        return ops.matmul(ops.take(left, previous, axis=0), right.T) / 3, cache

    return next_logits


def rows_alone_and_in_batches(next_logits, length, batches):
    """The same rows, cut into batches in several ways: [sum of batches, N]."""
    rows = max(batches)
    seeds = np.asarray(sampling.row_seeds(1, rows))
    run = tf.function(
        lambda tokens, seeds: sampling.generate_tokens(
            next_logits, ops.zeros(()), tokens, seeds, ops.ones(ops.shape(seeds))
        )[0]
    )
    for batch in batches:
        parts = [
            run(ops.zeros((length, batch), "int32"), tf.constant(seeds[start : start + batch]))
            for start in range(0, rows, batch)
        ]
        yield np.concatenate(parts, axis=1).T  # [rows,N]


def test_a_row_gives_the_same_tokens_in_any_batch():
    alone, some, all_rows = rows_alone_and_in_batches(chain(256), 48, (1, 4, 8))
    np.testing.assert_array_equal(some, alone)
    np.testing.assert_array_equal(all_rows, alone)
    assert len(np.unique(alone, axis=0)) == 8  # each row has its own seed


@pytest.mark.large
def test_a_row_gives_the_same_tokens_in_any_batch_at_full_size():
    in_32, in_8, alone = rows_alone_and_in_batches(chain(8192), 1024, (32, 8, 1))
    np.testing.assert_array_equal(in_8, in_32)
    np.testing.assert_array_equal(alone, in_32)
