import keras
import numpy as np
import pytest
import tensorflow as tf

from vim_tf.trainers.gradients import accumulate, apply_gradients, densify

ROWS = np.int32([[0, 1, 1], [2, 1, 0], [4, 4, 4], [3, 0, 1]])
TARGETS = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")


def weights_after_training(strategy, clip_norm, update=apply_gradients, steps=3):
    """Trains an embedding and a dense layer on one global batch; returns weights and norms."""
    with strategy.scope():
        embedding = keras.layers.Embedding(5, 3)
        dense = keras.layers.Dense(2)
        embedding.build((None, 3))
        dense.build((None, 3))
        rng = np.random.default_rng(1)
        variables = embedding.trainable_variables + dense.trainable_variables
        for variable in variables:
            variable.assign(rng.normal(size=variable.shape))
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(variables)

    def step(rows, targets):
        with tf.GradientTape() as tape:
            outputs = dense(tf.reduce_mean(embedding(rows), axis=1))
            loss = tf.reduce_mean(tf.square(outputs - targets))
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        assert isinstance(gradients[0], tf.IndexedSlices)
        return update(optimizer, gradients, variables, clip_norm)

    dataset = tf.data.Dataset.from_tensors((ROWS, TARGETS)).unbatch().batch(4).repeat()
    batches = iter(strategy.experimental_distribute_dataset(dataset))

    # Compiled, as in trainers: eager replicas may wait minutes for each other in a collective.
    @tf.function
    def run(batch):
        return strategy.run(step, batch)

    norms = []
    for _ in range(steps):
        norms.append(
            [float(norm) for norm in strategy.experimental_local_results(run(next(batches)))]
        )
    return [variable.numpy() for variable in variables], norms


def numpy_training(clip_norm, steps=3):
    """The same training in NumPy, over the whole batch."""
    rng = np.random.default_rng(1)
    embeddings, kernel, bias = (rng.normal(size=shape) for shape in ((5, 3), (3, 2), (2,)))
    norms = []
    for _ in range(steps):
        features = embeddings[ROWS].mean(1)  # [4,3]
        errors = 2 * (features @ kernel + bias - TARGETS) / TARGETS.size
        to_embeddings = np.zeros((5, 3))
        for row, error in zip(ROWS, errors, strict=True):
            for i in row:
                to_embeddings[i] += error @ kernel.T / 3
        gradients = [to_embeddings, features.T @ errors, errors.sum(0)]
        norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
        norms.append(norm)
        scale = min(1, clip_norm / norm) if clip_norm else 1
        embeddings, kernel, bias = (
            weight - 0.5 * scale * gradient
            for weight, gradient in zip((embeddings, kernel, bias), gradients, strict=True)
        )
    return [embeddings, kernel, bias], norms


def strategies(two_replicas):
    return {
        "none": tf.distribute.get_strategy(),
        "one device": tf.distribute.OneDeviceStrategy("CPU:0"),
        "two replicas": two_replicas,
    }


@pytest.mark.parametrize("clip_norm", [0.0, 0.1, 100.0])
@pytest.mark.parametrize("name", ["none", "one device", "two replicas"])
def test_weights_equal_those_of_numpy_over_the_global_batch(name, clip_norm, two_replicas):
    strategy = strategies(two_replicas)[name]
    weights, norms = weights_after_training(strategy, clip_norm)
    expected, expected_norms = numpy_training(clip_norm)
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-6)
    for of_replicas, norm in zip(norms, expected_norms, strict=True):
        np.testing.assert_allclose(of_replicas, norm, rtol=1e-5)


def test_clipping_before_the_reduction_would_be_seen(two_replicas):
    """Clips before the reduction, like Keras' global_clipnorm: then the tests above fail."""

    def clip_first(optimizer, gradients, variables, clip_norm):
        gradients, norm = tf.clip_by_global_norm(densify(gradients), clip_norm)
        apply_gradients(optimizer, gradients, variables, 0.0)
        return norm

    weights, _ = weights_after_training(two_replicas, 0.1, update=clip_first)
    differences = [
        np.abs(weight - other).max()
        for weight, other in zip(weights, numpy_training(0.1)[0], strict=True)
    ]
    assert max(differences) > 1e-3


def test_densify_adds_repeated_rows():
    values = np.float32([[1, 2], [3, 4], [5, 6]])
    slices = tf.IndexedSlices(
        tf.constant(values), tf.constant([3, 0, 3]), dense_shape=tf.constant([4, 2])
    )
    dense, same = densify([slices, tf.constant([7.0])])
    np.testing.assert_array_equal(dense, [[3, 4], [0, 0], [0, 0], [6, 8]])
    np.testing.assert_array_equal(same, [7.0])


def test_missing_gradients_are_named():
    variables = [keras.Variable(1.0, name=name) for name in ("used", "idle", "lost")]
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(variables)
    with pytest.raises(ValueError, match="no gradient for .*idle, .*lost"):
        apply_gradients(optimizer, [tf.constant(1.0), None, None], variables, 0.0)
    np.testing.assert_array_equal(variables[0], 1.0)


@pytest.mark.parametrize("how", [{"jit_compile": True}, {"input_signature": True}, None])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(parts, how):
    """Compiled, with unknown size, and eager; also with repeated rows of an embedding."""
    table = tf.Variable(np.random.default_rng(2).normal(size=(5, 2)).astype("float32"))
    seen = []

    def compute(batch, keys):
        seen.append(keys.shape[0])
        with tf.GradientTape() as tape:
            outputs = tf.reduce_sum(tf.gather(table, batch["rows"]), 1)
            loss = tf.reduce_mean(tf.square(outputs - batch["targets"]))
        gradient = tape.gradient(loss, [table])
        assert isinstance(gradient[0], tf.IndexedSlices)
        return (gradient, []), {"loss": loss}, {"outputs": outputs, "keys": keys}

    inputs = ({"rows": ROWS, "targets": TARGETS}, tf.range(4))
    ((expected,), _), logs, extras = compute(*inputs)
    seen.clear()

    def run(*inputs):
        return accumulate(compute, inputs, parts)

    if how is not None:
        if "input_signature" in how:
            how = {
                "input_signature": [
                    {
                        "rows": tf.TensorSpec([None, 3], tf.int32),
                        "targets": tf.TensorSpec([None, 2]),
                    },
                    tf.TensorSpec([None], tf.int32),
                ]
            }
        run = tf.function(run, autograph=False, **how)
    ((found,), empty), found_logs, found_extras = run(*inputs)
    np.testing.assert_allclose(found, tf.convert_to_tensor(expected), rtol=1e-5, atol=1e-7)
    assert empty == []
    np.testing.assert_allclose(found_logs["loss"], logs["loss"], rtol=1e-6)
    np.testing.assert_array_equal(found_extras["keys"], [0, 1, 2, 3])
    np.testing.assert_allclose(found_extras["outputs"], extras["outputs"], rtol=1e-6)
    assert set(seen) <= {4 // parts, None}


def test_without_extras():
    x = tf.Variable(2.0)

    def compute(rows):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(rows * x)
        return [tape.gradient(loss, x)], {}, ()

    gradients, logs, extras = accumulate(compute, (tf.constant([1.0, 3.0]),), 2)
    assert (float(gradients[0]), logs, extras) == (2.0, {}, ())
