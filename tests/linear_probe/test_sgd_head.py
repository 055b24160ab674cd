import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vim_tf.config.sections import SGDHeadConfig
from vim_tf.errors import UserError
from vim_tf.linear_probe import sgd_head
from vim_tf.linear_probe.sgd_head import predict, train_head

# For few steps on little data. The learning rate of the literature is for thousands of steps.
QUICK = {
    "lars": SGDHeadConfig("lars", learning_rate=10.0, batch_size=500, epochs=30, warmup_epochs=3),
    "sgd": SGDHeadConfig("sgd", learning_rate=0.1, batch_size=500, epochs=30, warmup_epochs=3),
}


def gaussians(count, distance, seed=0, classes=4, dim=12):
    """Correlated features [count,dim] float32 around a point for each class, and labels."""
    random = np.random.default_rng(seed)
    centres = distance * random.normal(size=(classes, dim))
    mixing = 3 * np.eye(dim) + 1.5 * random.normal(size=(dim, dim))
    labels = random.integers(0, classes, count)
    features = (centres[labels] + random.normal(size=(count, dim))) @ mixing + 10
    return features.astype("float32"), labels


class Recorded:
    """Behaves like an array on disk for `train_head`, and records each read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        values = self.array[rows]
        self.read.append((rows, len(values)))
        return values

    def batches(self):
        """The rows of each training batch."""
        return [rows for rows, _ in self.read if isinstance(rows, np.ndarray)]


@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
@pytest.mark.parametrize(("distance", "least", "most"), [(1.0, 0.94, 0.96), (0.4, 0.59, 0.63)])
def test_as_good_as_logistic_regression(optimizer, distance, least, most):
    """On held-out rows, for classes that are well separated and for classes that overlap."""
    features, labels = gaussians(12_000, distance)
    train, held_out = slice(0, 4000), slice(4000, None)
    mean, deviation = features[train].mean(0), features[train].std(0)
    scaled = (features - mean) / deviation
    solved = LogisticRegression(C=1e4, max_iter=2000).fit(scaled[train], labels[train])
    reference = solved.score(scaled[held_out], labels[held_out])
    assert least < reference < most
    head = train_head(features[train], labels[train], 4, QUICK[optimizer], seed=1)
    found = predict(head, features[held_out])
    assert np.mean(found == labels[held_out]) > reference - 0.01


@pytest.mark.parametrize(
    ("optimizer", "batch_size", "used"),
    [("sgd", 16_384, 100), ("lars", 16_384, 100), ("lars", 40, 40)],
)
def test_training_equals_numpy(optimizer, batch_size, used):
    """Norm, cross-entropy, warm-up, cosine, momentum, and the rate for the reduced batch size."""
    features, labels = gaussians(100, 0.5)
    config = SGDHeadConfig(optimizer, 3.0, batch_size, epochs=5, warmup_epochs=2)
    still = SGDHeadConfig("sgd", 1e-30, batch_size, epochs=1, warmup_epochs=0)
    kernel, bias = (w.numpy() for w in train_head(features, labels, 4, still, 7).trainable_weights)
    first = kernel.copy()
    recorded = Recorded(features)
    head = train_head(recorded, labels, 4, config, seed=7)
    batches = recorded.batches()
    steps = 100 // used
    assert [len(rows) for rows in batches] == [used] * steps * 5
    kernel_velocity = bias_velocity = 0.0
    for step, rows in enumerate(batches):
        x = features[rows].astype("float64")
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
        shares = np.exp(x @ kernel + bias)
        shares /= shares.sum(1, keepdims=True)
        slope = (shares - np.eye(4)[labels[rows]]) / len(rows)
        warmup = step / (2 * steps)
        cosine = (1 + np.cos(np.pi * (step - 2 * steps) / (3 * steps))) / 2
        rate = 3.0 * used / 256 * (warmup if warmup < 1 else cosine)
        gradient, local = x.T @ slope, 1.0
        if optimizer == "lars":
            local = 0.001 * np.linalg.norm(kernel) / np.linalg.norm(gradient)
        kernel_velocity = 0.9 * kernel_velocity + rate * local * gradient
        bias_velocity = 0.9 * bias_velocity + rate * slope.sum(0)
        kernel, bias = kernel - kernel_velocity, bias - bias_velocity
    trained = [w.numpy() for w in head.trainable_weights]
    np.testing.assert_allclose(trained[0], kernel, rtol=1e-3, atol=2e-6)
    np.testing.assert_allclose(trained[1], bias, rtol=1e-3, atol=1e-5)
    assert np.abs(trained[0] - first).max() > 1e-4


def test_the_norm_is_left_with_the_statistics_of_all_features(monkeypatch):
    """After three steps, with a mean far from 0, read in blocks of which the last is short."""
    monkeypatch.setattr(sgd_head, "ROWS", 32)
    features, labels = gaussians(100, 0.5)
    features += 1000
    features[:, 3] = 0.1  # a dead unit
    config = SGDHeadConfig("sgd", 0.1, 64, epochs=3, warmup_epochs=0)
    head = train_head(features, labels, 4, config, seed=0)
    exact = features.astype("float64")
    mean, variance = (w.numpy() for w in head.non_trainable_weights[:2])
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var(0), rtol=1e-5, atol=1e-9)
    kernel, bias = (w.numpy() for w in head.trainable_weights)
    logits = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-6) @ kernel + bias
    found = predict(head, features)
    np.testing.assert_array_equal(found, logits.argmax(1))
    assert found.shape == (100,)
    assert np.issubdtype(found.dtype, np.integer)


@pytest.mark.parametrize("batch_size", [64, 300])  # with one batch per epoch, order has no effect
def test_the_weights_are_a_function_of_the_seed(batch_size):
    features, labels = gaussians(300, 0.5)
    config = SGDHeadConfig("lars", 1.0, batch_size, epochs=3, warmup_epochs=1)
    once, again, other = (
        train_head(features, labels, 4, config, seed).trainable_weights[0].numpy()
        for seed in (5, 5, -1)
    )
    np.testing.assert_array_equal(once, again)
    assert np.any(once != other)


def test_each_epoch_has_an_order_of_its_own_without_repetition():
    features, labels = gaussians(100, 0.5)
    config = SGDHeadConfig("sgd", 0.1, 30, epochs=8, warmup_epochs=0)
    orders = []
    for seed in (0, 0, 1):
        recorded = Recorded(features)
        train_head(recorded, labels, 4, config, seed)
        orders.append(np.reshape(recorded.batches(), (8, 90)))
    for epoch in orders[0]:
        assert len(set(epoch)) == 90
    assert len({frozenset(epoch[:30]) for epoch in orders[0]}) == 8
    assert set(orders[0].flat) == set(range(100))  # the ten unused rows are not always the same
    np.testing.assert_array_equal(orders[0], orders[1])
    assert np.any(orders[0] != orders[2])


def test_a_file_of_float16_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(sgd_head, "ROWS", 50)
    features, labels = gaussians(400, 1.0)
    file = np.memmap(tmp_path / "features", "float16", "w+", shape=features.shape)
    file[:] = features
    recorded = Recorded(file)
    config = SGDHeadConfig("sgd", 0.1, 64, epochs=4, warmup_epochs=1)
    head = train_head(recorded, labels, 4, config, seed=0)
    found = predict(head, recorded)
    assert max(count for _, count in recorded.read) == 64
    in_memory = train_head(features.astype("float16").astype("float32"), labels, 4, config, seed=0)
    for a, b in zip(head.weights, in_memory.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert np.mean(found == labels) > 0.8


@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
def test_replicas_train_the_same_head(optimizer, two_replicas):
    """The norm is over whole batches, with means far from 0. The last batch is odd."""
    features, labels = gaussians(101, 0.5)
    features += 1000
    config = SGDHeadConfig(optimizer, 3.0, batch_size=102, epochs=10, warmup_epochs=2)
    even = SGDHeadConfig(optimizer, 3.0, batch_size=100, epochs=10, warmup_epochs=2)
    alone = train_head(features, labels, 4, even, seed=0)
    with two_replicas.scope():
        shared = train_head(features, labels, 4, config, seed=0)
        np.testing.assert_array_equal(predict(shared, features), predict(alone, features))
    for a, b in zip(shared.weights, alone.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-5)


def test_batches_that_replicas_cannot_share_are_refused(two_replicas):
    features, labels = gaussians(100, 0.5)
    config = SGDHeadConfig("sgd", 0.1, batch_size=33, epochs=1, warmup_epochs=0)
    with two_replicas.scope():
        with pytest.raises(UserError, match="sgd.batch_size is 33, replicas: 2; .* multiple of 2"):
            train_head(features, labels, 4, config, seed=0)
        with pytest.raises(UserError, match="1 images to fit the probe on, replicas: 2"):
            train_head(features[:1], labels[:1], 4, QUICK["sgd"], seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(monkeypatch, value):
    monkeypatch.setattr(sgd_head, "ROWS", 32)
    features, labels = gaussians(100, 0.5)
    features[70, 2] = value
    with pytest.raises(UserError, match=f"row 70 of the features holds {value} at place 2"):
        train_head(features, labels, 4, QUICK["sgd"], seed=0)


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_that_are_no_class_are_refused(label):
    features, labels = gaussians(100, 0.5)
    labels[9] = label
    words = f"image 9 .* has the label {label}; with 4 classes it must be from 0 to 3"
    with pytest.raises(UserError, match=words):
        train_head(features, labels, 4, QUICK["sgd"], seed=0)


def test_each_row_needs_a_label():
    features, labels = gaussians(100, 0.5)
    with pytest.raises(ValueError, match=r"labels have the shape \(99,\); it must be \[100\]"):
        train_head(features, labels[1:], 4, QUICK["sgd"], seed=0)
