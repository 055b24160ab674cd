import numpy as np
import pytest
import tensorflow as tf

from vim_tf.config.sections import OptimizerConfig, QuantizerConfig
from vim_tf.models.quantizer import QuantizerOutput, VectorQuantizer
from vim_tf.trainers.codebook_health import CodebookRevival, CodebookUsage, mean_angle
from vim_tf.trainers.optimizers import make_optimizer

CODES, DIM = 8, 3
SEED = -(2**40)  # the seed of a config may be any integer


@pytest.fixture
def revival():
    """Every third step, revives codes with less than half of the hits of an even share."""
    config = QuantizerConfig(codes=CODES, code_dim=DIM, revive_every=3, revive_below=0.5)
    quantizer = VectorQuantizer(config)
    quantizer.build((None, 4, 5))
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0), 10)
    optimizer.build(quantizer.trainable_variables)
    for variable in optimizer.variables[1:]:  # after the count of steps
        variable.assign(tf.ones(variable.shape))
    averaged = tf.Variable(tf.fill([CODES, DIM], 7.0))
    return CodebookRevival(quantizer, averaged, optimizer, SEED)


def output(tokens, seed=0):
    latents = np.random.default_rng(seed).normal(size=(1, len(tokens), DIM)).astype("float32")
    latents /= np.linalg.norm(latents, axis=-1, keepdims=True)
    return QuantizerOutput(tf.constant(latents), None, tf.constant([tokens], tf.int32))


# 16 tokens, so an even share is 2. Codes 4 to 7 have no or less than one hit.
TOKENS = [0] * 5 + [1] * 4 + [2] * 4 + [3] * 3


def state(revival):
    return [np.array(v) for v in (revival.quantizer.codebook, revival.hits, *revival.slots)]


def test_nothing_happens_until_it_is_time(revival):
    before = state(revival)
    for step in range(2):
        revival(tf.constant(step, tf.int64), output(TOKENS))
    codebook, hits, *slots = state(revival)
    np.testing.assert_array_equal(codebook, before[0])
    np.testing.assert_array_equal(hits, 2 * np.bincount(TOKENS, minlength=CODES))
    for slot in slots:
        np.testing.assert_array_equal(slot, 1)


def test_dead_codes_move_onto_latents_and_lose_their_momentum(revival):
    """Code 4 is hit once in step 0, code 5 never. Both are dead over the three steps."""
    before = state(revival)[0]
    for step, tokens in enumerate(([*TOKENS[:-1], 4], TOKENS, TOKENS)):
        last = output(tokens, seed=step)
        revival(tf.constant(step, tf.int64), last)
    codebook, hits, *slots = state(revival)
    np.testing.assert_array_equal(codebook[:4], before[:4])
    np.testing.assert_array_equal(hits, 0)
    length = np.linalg.norm(before, axis=-1).mean()
    np.testing.assert_allclose(np.linalg.norm(codebook[4:], axis=-1), length, rtol=1e-5)
    cosines = codebook[4:] / length @ last.latents.numpy()[0].T  # [4,16]
    np.testing.assert_allclose(cosines.max(1), 1, atol=1e-5)
    assert len(set(cosines.argmax(1))) > 1  # not all to the same latent
    np.testing.assert_array_equal(revival.averaged[4:], codebook[4:])
    np.testing.assert_array_equal(revival.averaged[:4], 7)
    assert len(slots) == 2  # only Adam's two moments of the codebook
    for slot in slots:
        np.testing.assert_array_equal(slot[:4], 1)
        np.testing.assert_array_equal(slot[4:], 0)


def test_a_code_with_its_share_stays(revival):
    """Of 48 tokens, an even share is 6. So 3 hits are enough and 2 are not."""
    tokens = [0] * 43 + [1] * 3 + [2] * 2
    before = state(revival)[0]
    revival(tf.constant(2, tf.int64), output(tokens))
    moved = np.any(state(revival)[0] != before, axis=1)
    np.testing.assert_array_equal(moved, [False, False, *[True] * 6])


def test_replicas_count_together_and_stay_equal(revival, two_replicas):
    """With the tokens of one replica only, other codes would be dead."""
    config = revival.quantizer.config
    with two_replicas.scope():
        quantizer = VectorQuantizer(config)
        quantizer.build((None, 4, 5))
        optimizer = make_optimizer(OptimizerConfig(warmup_steps=0), 10)
        optimizer.build(quantizer.trainable_variables)
        averaged = tf.Variable(tf.zeros([CODES, DIM]))
        mirrored = CodebookRevival(quantizer, averaged, optimizer, SEED)
    quantizer.codebook.assign(revival.quantizer.codebook)
    whole = output([*TOKENS[:8], *TOKENS[8:]])
    halves = [
        QuantizerOutput(whole.latents[:, rows], None, whole.tokens[:, rows])
        for rows in (slice(0, 8), slice(8, 16))
    ]
    batch = two_replicas.experimental_distribute_values_from_function(
        lambda context: halves[context.replica_id_in_sync_group]
    )

    @tf.function
    def run(step, batch):
        two_replicas.run(mirrored, (step, batch))

    run(tf.constant(2, tf.int64), batch)
    revival(tf.constant(2, tf.int64), whole)
    for copy in two_replicas.experimental_local_results(quantizer.codebook.value):
        np.testing.assert_allclose(copy, revival.quantizer.codebook, atol=1e-6)


def test_usage_equals_numpy():
    usage = CodebookUsage(CODES)
    first, second = np.int32([[0, 1, 1], [1, 5, 5]]), np.int32([7])
    usage.update_state(first)
    usage.update_state(second)
    share = np.array([1, 3, 2, 1]) / 7
    result = {name: float(value) for name, value in usage.result().items()}
    assert result["usage"] == 4 / CODES
    assert result["dead_codes"] == CODES - 4
    np.testing.assert_allclose(
        result["perplexity"], np.exp(-np.sum(share * np.log(share))), rtol=1e-6
    )
    usage.reset_state()
    usage.update_state(np.arange(CODES, dtype="int32"))
    result = {name: float(value) for name, value in usage.result().items()}
    np.testing.assert_allclose([result["usage"], result["perplexity"]], [1, CODES], rtol=1e-5)


def test_mean_angle():
    initial = np.float32([[1, 0], [0, 1], [1, 0]])
    codebook = np.float32([[2, 2], [0, 0.1], [-3, 0]])  # 45, 0 and 180 degrees
    np.testing.assert_allclose(mean_angle(codebook, initial), 75, rtol=1e-4)
