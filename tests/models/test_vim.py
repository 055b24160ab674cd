import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from vim_tf.config.sections import TransformerConfig, VIMConfig
from vim_tf.errors import UserError
from vim_tf.models.vim import VIM
from vim_tf.sampling import sample as sampling

GRID, CODES, CLASSES = (2, 3), 11, 4
TOKENS = np.random.default_rng(0).integers(CODES, size=(3, 6)).astype("int32")
LABELS = np.array([0, 3, 1], "int32")


def make_vim(grid=GRID, codes=CODES, classes=CLASSES, seed=1, **config):
    """A model with weights so large that tokens and labels have an effect."""
    transformer = TransformerConfig(**{"blocks": 1, "heads": 2, "dim": 16, "mlp_dim": 24, **config})
    model = VIM(VIMConfig(transformer=transformer), grid, codes, classes)
    random = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(random.normal(size=weight.shape) * 0.5 + ("gamma" in weight.path))
    return model


@pytest.fixture(scope="module")
def model():
    return make_vim()


@pytest.fixture(scope="module")
def deep():
    return make_vim(blocks=2)


@pytest.fixture(scope="module")
def forward(model):
    return tf.function(model.call)


# Forward ----------------------------------------------------------------------------------------


def test_slots_hold_the_label_then_the_token_before_at_the_place_to_come(deep):
    tokens, labels, rows, columns = (
        layer.embeddings.numpy()
        for layer in (
            deep.token_embedding,
            deep.label_embedding,
            deep.row_embedding,
            deep.column_embedding,
        )
    )
    x = np.zeros((3, 6, 16), "float32")
    for i in range(3):
        for slot in range(6):
            before = labels[LABELS[i]] if slot == 0 else tokens[TOKENS[i, slot - 1]]
            x[i, slot] = before + rows[slot // 3] + columns[slot % 3]
    y = deep.transformer(x).numpy()
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    y = y * deep.norm.gamma.numpy() + deep.norm.beta.numpy()
    expected = y @ deep.head.kernel.numpy() + deep.head.bias.numpy()
    logits = deep(TOKENS, LABELS)
    assert logits.shape == (3, 6, CODES) and logits.dtype == "float32"
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_logits_depend_on_the_tokens_before_only(deep):
    before = deep(TOKENS, LABELS).numpy()
    for place in range(6):
        changed = TOKENS.copy()
        changed[:, place] = (changed[:, place] + 1) % CODES
        differs = np.any(deep(changed, LABELS).numpy() != before, axis=(0, 2))
        np.testing.assert_array_equal(differs, np.arange(6) > place)


def test_the_label_matters_at_every_slot(model):
    differs = model(TOKENS, LABELS).numpy() != model(TOKENS, (LABELS + 1) % CLASSES).numpy()
    assert np.all(np.any(differs, axis=2))


def test_no_label_is_the_null_label(model):
    null = np.full(3, CLASSES, "int32")
    np.testing.assert_array_equal(model(TOKENS), model(TOKENS, null))
    assert np.any(model(TOKENS).numpy() != model(TOKENS, LABELS).numpy())


def test_a_model_without_labels_reads_none():
    config = VIMConfig(TransformerConfig(1, 2, 16, 24), conditional=False)
    for model in (VIM(config, GRID, CODES, CLASSES), make_vim(classes=0)):
        assert model.classes == 0 and model.label_embedding.embeddings.shape == (1, 16)
        np.testing.assert_array_equal(model(TOKENS, LABELS), model(TOKENS))


def test_dropout_acts_in_training_only():
    model = make_vim(dropout=0.3)
    expected = make_vim()(TOKENS, LABELS).numpy()
    np.testing.assert_array_equal(model(TOKENS, LABELS, training=False), expected)
    assert np.any(model(TOKENS, LABELS, training=True).numpy() != expected)


def test_dropout_also_acts_on_the_embeddings():
    model = make_vim(dropout=0.3)
    (block,) = model.transformer.blocks
    block.attention.dropout.rate = block.activation_dropout.rate = 0.0
    block.attention_dropout.rate = block.mlp_dropout.rate = 0.0
    logits = [model(TOKENS, LABELS, training=True).numpy() for _ in range(2)]
    assert np.any(logits[0] != logits[1])


@pytest.mark.parametrize("shape", [(3, 5), (3, 7), (6,), (3, 2, 3)])
def test_refuses_tokens_of_another_grid(model, shape):
    with pytest.raises(ValueError, match=r"a grid of 2 x 3 needs \[batch, 6\]"):
        model(np.zeros(shape, "int32"), LABELS)


# Features ---------------------------------------------------------------------------------------


def test_features_are_the_mean_of_a_blocks_output(deep):
    first, second = deep.transformer.blocks
    embedded = deep._embed(TOKENS, LABELS, training=False)
    for block, expected in enumerate((embedded, first(embedded), second(first(embedded)))):
        features = deep.features(TOKENS, block, LABELS)
        assert features.shape == (3, 16) and features.dtype == "float32"
        np.testing.assert_allclose(features, expected.numpy().mean(axis=1), rtol=1e-5, atol=1e-5)
        of_all = deep.block_features(TOKENS, LABELS)
        np.testing.assert_allclose(of_all[:, block], features, rtol=1e-5, atol=1e-5)


def test_features_without_labels_and_without_dropout():
    model = make_vim(dropout=0.5)
    null = np.full(3, CLASSES, "int32")
    features = model.features(TOKENS, 1)
    np.testing.assert_array_equal(features, model.features(TOKENS, 1, null))


@pytest.mark.parametrize("block", [-1, 2])
def test_features_refuse_a_block_that_is_not_there(model, block):
    with pytest.raises(UserError, match=f"block is {block}; this model has blocks 1 to 1"):
        model.features(TOKENS, block)


# Generation against the whole forward pass ------------------------------------------------------


def test_steps_with_the_cache_equal_the_whole(deep):
    expected = deep(TOKENS, LABELS).numpy()
    cache = deep.init_cache(3)
    for position in range(6):
        previous = TOKENS[:, position - 1] if position else np.full(3, 7, "int32")  # not read
        logits, cache = deep.next_logits(previous, np.int32(position), cache, LABELS)
        assert logits.dtype == "float32"
        np.testing.assert_allclose(logits, expected[:, position], rtol=1e-5, atol=1e-5)


def decode_greedily(forward, labels, scale=1.0):
    """Takes the argmax of the whole forward pass, six times, without cache or sampling."""
    labels, tokens = tf.constant(labels), np.zeros((len(labels), 6), "int32")
    null = tf.fill(labels.shape, CLASSES)
    for position in range(6):
        with_label, without = (
            forward(tf.constant(tokens), which).numpy()[:, position] for which in (labels, null)
        )
        logits = without + np.reshape(scale, (-1, 1)) * (with_label - without)
        tokens[:, position] = logits.argmax(-1)
    return tokens


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-6}])
def test_greedy_tokens_are_the_argmax_of_the_whole_forward_pass(model, forward, settings):
    tokens = model.generate(LABELS, seed=3, **settings)
    assert tokens.shape == (3, 6) and tokens.dtype == "int32"
    np.testing.assert_array_equal(tokens, decode_greedily(forward, LABELS))


def test_greedy_tokens_without_labels(model, forward):
    tokens = model.generate(n=3, temperature=0)
    np.testing.assert_array_equal(tokens, decode_greedily(forward, [CLASSES] * 3))


def test_guidance_is_its_formula_with_the_null_label(model, forward):
    scale = np.array([1.0, 4.0, 0.0], "float32")
    expected = decode_greedily(forward, LABELS, scale)
    assert np.any(expected != decode_greedily(forward, LABELS))
    tokens = model.generate(LABELS, temperature=0, guidance_scale=scale)
    np.testing.assert_array_equal(tokens, expected)


def test_samples_have_the_models_distribution():
    model = make_vim(grid=(1, 2), codes=3, classes=2)
    pairs = np.array([(a, b) for a in range(3) for b in range(3)], "int32")
    logits = model(pairs, np.ones(9, "int32")).numpy().astype("float64") / 1.5
    log_share = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    share = np.exp(
        log_share[np.arange(9), 0, pairs[:, 0]] + log_share[np.arange(9), 1, pairs[:, 1]]
    )
    share /= share.sum()  # 1 up to rounding, as SciPy is strict
    tokens = model.generate(1, seed=5, n=20_000, temperature=1.5).numpy()
    counts = np.bincount(tokens[:, 0] * 3 + tokens[:, 1], minlength=9)
    assert stats.chisquare(counts, 20_000 * share).pvalue > 0.01


# Rows -------------------------------------------------------------------------------------------


def test_a_row_is_the_same_alone_and_with_others(model):
    rows = {
        "labels": np.array([0, 1, 2, 3, 0]),
        "seed": np.array([7, 7, -1, 2**32 - 1, 8]),
        "temperature": np.array([1.0, 0.5, 2.0, 0.0, 1.0]),
        "top_k": np.array([0, 4, 0, 0, 1]),
        "top_p": np.array([1.0, 0.9, 0.5, 1.0, 0.8]),
        "guidance_scale": np.array([1.0, 3.0, 0.5, 1.0, 2.0]),
    }
    together = model.generate(**rows).numpy()
    for row in range(5):
        alone = model.generate(**{name: values[row : row + 1] for name, values in rows.items()})
        np.testing.assert_array_equal(alone[0], together[row])


def test_a_row_is_the_same_in_any_batch():
    model = make_vim(grid=(4, 4), codes=300)
    labels, seeds = np.arange(8) % 4, sampling.row_seeds(5, 8).numpy()
    together = model.generate(labels, seeds).numpy()
    for batch in (1, 4):
        parts = [
            model.generate(labels[start : start + batch], seeds[start : start + batch]).numpy()
            for start in range(0, 8, batch)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), together)


@pytest.mark.large
def test_a_row_is_the_same_in_any_batch_at_full_size():
    model = make_vim(grid=(32, 32), codes=8192, blocks=1)
    labels, seeds = np.arange(32) % 4, sampling.row_seeds(5, 32).numpy()
    in_32 = model.generate(labels, seeds).numpy()
    assert len(np.unique(in_32)) > 2000
    for start in range(0, 32, 8):
        in_8 = model.generate(labels[start : start + 8], seeds[start : start + 8])
        np.testing.assert_array_equal(in_8, in_32[start : start + 8])
    for row in (0, 1, 13, 31):
        alone = model.generate(labels[row : row + 1], seeds[row : row + 1])
        np.testing.assert_array_equal(alone[0], in_32[row])


def test_seeds(model):
    first = model.generate(2, seed=1, n=16).numpy()
    assert len(np.unique(first, axis=0)) > 12  # one seed, but each row differs
    np.testing.assert_array_equal(model.generate(2, seed=1, n=16), first)
    np.testing.assert_array_equal(model.generate(2, seed=sampling.row_seeds(1, 16)), first)
    assert np.any(model.generate(2, seed=2, n=16).numpy() != first)


def test_number_of_rows(model):
    assert model.generate().shape == (1, 6)
    assert model.generate(n=2).shape == (2, 6)
    assert model.generate(3, n=2).shape == (2, 6)
    assert model.generate([3, 1], n=2).shape == (2, 6)
    assert model.generate(seed=[3, 1]).shape == (2, 6)


def test_callback_sees_each_row_of_the_grid_and_changes_nothing(model):
    calls = []
    settings = {"top_p": 0.9, "guidance_scale": 2.0}
    tokens = model.generate(LABELS, 3, callback=lambda *call: calls.append(call), **settings)
    assert calls == [(3, 6), (6, 6)]
    np.testing.assert_array_equal(tokens, model.generate(LABELS, 3, **settings))


def test_without_callback_all_tokens_are_one_call(monkeypatch):
    model, traces = make_vim(), []
    original = model.sample_tokens
    sample = lambda *rows: traces.append(rows) or original(*rows)  # noqa: E731
    monkeypatch.setattr(model, "_compiled", lambda _: (sample, None))
    model.generate(LABELS)
    assert len(traces) == 1


def test_replicas_share_the_rows_and_draw_the_same(model, two_replicas):
    with two_replicas.scope():
        shared = make_vim()
    settings = {"top_p": 0.9, "guidance_scale": 2.0, "n": 5}
    for given in ({"labels": [0, 3, 1, 2, 2]}, {"labels": 1, **settings}, {"n": 1}):
        expected = model.generate(seed=4, **given)
        np.testing.assert_array_equal(shared.generate(seed=4, **given), expected)


def test_traces_once_a_shape_and_reads_new_weights(monkeypatch):
    model, traces = make_vim(), []
    original = VIM.next_logits

    def count(self, previous, *others):
        traces.append(previous.shape[0])
        return original(self, previous, *others)

    monkeypatch.setattr(VIM, "next_logits", count)
    first = model.generate(LABELS, 1).numpy()
    model.generate(LABELS + 0, 2, temperature=0.3)
    model.generate(1, 2, n=3, temperature=[0.1, 0.2, 0.3])
    assert traces == [3]
    model.generate(LABELS, 1, top_k=3)
    model.generate(LABELS, 1, top_p=0.5, top_k=[1, 2, 3])
    assert traces == [3, 3]
    model.generate(LABELS, 1, guidance_scale=2)
    assert traces == [3, 3, 6]
    model.generate(n=2)
    assert traces == [3, 3, 6, 2]
    for weight in model.trainable_variables:
        weight.assign(-weight)
    assert np.any(model.generate(LABELS, 1).numpy() != first)
    assert len(traces) == 4
    for seed in (1, 2):
        model.generate(LABELS, seed, callback=lambda done, total: None)
    assert traces[4:] == [3]


# Saving and precision ---------------------------------------------------------------------------


def test_generation_saves_with_any_number_of_rows(model, tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)] * 2)
    def generate(labels, seeds):
        rows = tf.shape(labels)[0]
        tokens, _ = sampling.generate_tokens(
            lambda previous, position, cache: model.next_logits(previous, position, cache, labels),
            model.init_cache(rows),
            tf.zeros([6, rows], tf.int32),
            seeds,
            tf.ones([rows]),
        )
        return {"tokens": tf.transpose(tokens)}

    module = tf.Module()
    module.model = [weight.value for weight in model.weights]
    module.generate = generate
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    seeds = sampling.row_seeds(1, 3)
    expected = model.generate(LABELS, seeds).numpy()
    np.testing.assert_array_equal(loaded.generate(LABELS, seeds)["tokens"], expected)
    np.testing.assert_array_equal(loaded.generate(LABELS[:1], seeds[:1])["tokens"], expected[:1])


def test_generates_in_bfloat16(model):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        low = make_vim()
    finally:
        keras.config.set_dtype_policy(policy)
    assert low.init_cache(1)[0][0].dtype == "bfloat16"
    logits, expected = low(TOKENS, LABELS), model(TOKENS, LABELS).numpy()
    assert logits.dtype == "float32"
    assert np.abs(logits.numpy() - expected).max() < 0.05 * np.abs(expected).max()
    assert low.generate(LABELS, 1, top_p=0.9, guidance_scale=2).shape == (3, 6)
