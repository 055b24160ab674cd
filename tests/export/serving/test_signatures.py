"""The answers of each signature: Keras' own for good rows, error messages for bad ones."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.data.transforms import normalize, to_uint8
from vim_tf.errors import UserError
from vim_tf.export.serving.signatures import Signatures, default_block
from vim_tf.models.vim import VIM
from vim_tf.runs.trained_run import open_run

GENERATE = {
    "label": [0, 1, 0, 1, 0],
    "seed": [1, -5, 2**32 - 1, 7, 1],
    "temperature": [1.0, 0.7, 0.0, 2.0, 1.0],
    "top_k": [0, 3, 0, 16, 0],
    "top_p": [1.0, 1.0, 0.9, 0.5, 1.0],
    "guidance_scale": [1.0, 2.0, 1.0, 0.0, 3.5],
}


@pytest.fixture(scope="module")
def run(tiny_runs):
    return open_run(tiny_runs["vim"])


@pytest.fixture(scope="module")
def signatures(run):
    return Signatures(run.tokenizer, run.vim, max_pixels=10_000)


@pytest.fixture(scope="module")
def ask(signatures):
    """Calls a signature with lists of values; returns bytes as text."""
    functions = signatures.functions()

    def call(name, **inputs):
        function = functions[name]
        dtypes = {spec.name: spec.dtype for spec in function.input_signature}
        assert set(inputs) == set(dtypes)
        inputs = {key: tf.constant(value, dtypes[key]) for key, value in inputs.items()}
        answer = {key: value.numpy() for key, value in function(**inputs).items()}
        answer["error"] = [error.decode() for error in answer["error"]]
        return answer

    return call


@pytest.fixture(scope="module")
def images(run):
    return run.images(6)


def decode_pngs(files):
    return np.stack([tf.io.decode_png(data).numpy() for data in files])


def encode_pngs(images):
    return [tf.io.encode_png(image).numpy() for image in images]


# As Keras ---------------------------------------------------------------------------------------


def test_tokenizing_and_decoding(ask, run, images):
    tokens = np.asarray(run.tokenizer.tokenize(normalize(images)))
    decoded = to_uint8(run.tokenizer.decode_tokens(tokens))
    assert len(np.unique(tokens)) > 1
    np.testing.assert_array_equal(ask("tokenize", images=images)["tokens"], tokens)
    from_bytes = ask("tokenize_bytes", image_bytes=encode_pngs(images))
    np.testing.assert_array_equal(from_bytes["tokens"], tokens)
    np.testing.assert_array_equal(ask("decode", tokens=tokens)["images"], decoded)
    files = ask("decode_bytes", tokens=tokens)["image_bytes"]
    np.testing.assert_array_equal(decode_pngs(files), decoded)
    np.testing.assert_array_equal(ask("reconstruct", images=images)["images"], decoded)


def test_embedding(ask, run, signatures, images):
    tokens = run.tokenizer.tokenize(normalize(images))
    features = np.asarray(run.vim.features(tokens, signatures.block))
    np.testing.assert_allclose(ask("embed", images=images)["features"], features, atol=1e-5)
    from_bytes = ask("embed_bytes", image_bytes=encode_pngs(images))
    np.testing.assert_allclose(from_bytes["features"], features, atol=1e-5)


def keras_tokens(run, rows=slice(None), labelled=True):
    settings = {key: np.array(value)[rows] for key, value in GENERATE.items()}
    labels, seed = settings.pop("label"), settings.pop("seed")
    if not labelled:
        labels = None
        del settings["guidance_scale"]
    return np.asarray(run.vim.generate(labels, seed, **settings))


def test_generating(ask, run):
    answer = ask("generate", **GENERATE)
    assert answer["error"] == [""] * 5
    np.testing.assert_array_equal(answer["tokens"], keras_tokens(run))
    decoded = to_uint8(run.tokenizer.decode_tokens(answer["tokens"]))
    np.testing.assert_array_equal(decode_pngs(answer["image_bytes"]), decoded)
    assert len(np.unique(answer["tokens"], axis=0)) > 2


@pytest.mark.parametrize(
    ("rows", "guides", "filters"), [([0], 0, 0), ([3], 1, 1), ([4], 1, 0), ([0, 2], 0, 1)]
)
def test_the_cheapest_loop_gives_the_same_tokens(ask, run, rows, guides, filters):
    """Alone, a row takes another branch than together with rows that guide and filter."""
    chosen = {key: np.array(value)[rows] for key, value in GENERATE.items()}
    assert np.any(chosen["guidance_scale"] != 1) == guides
    assert np.any((chosen["top_k"] > 0) | (chosen["top_p"] < 1)) == filters
    tokens = ask("generate", **chosen)["tokens"]
    np.testing.assert_array_equal(tokens, ask("generate", **GENERATE)["tokens"][rows])


def test_the_other_ways_to_generate(ask, run):
    answer = ask("generate_default", label=[0, 1], seed=[3, 4])
    expected = run.vim.generate(np.array([0, 1]), np.array([3, 4]))
    np.testing.assert_array_equal(answer["tokens"], expected)
    given = {k: v for k, v in GENERATE.items() if k not in ("label", "guidance_scale")}
    answer = ask("generate_unlabelled", **given)
    np.testing.assert_array_equal(answer["tokens"], keras_tokens(run, labelled=False))


# Bad rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("label", 2, "label is 2; it must be from 0 to 1"),
        ("label", -1, "label is -1; it must be from 0 to 1"),
        ("seed", 2**32, "seed is 4294967296; it must be from -2147483648 to 4294967295"),
        ("seed", -(2**31) - 1, "seed is -2147483649; it must be from"),
        ("temperature", np.nan, "temperature is nan; it must be at least 0"),
        ("temperature", -0.5, "temperature is -0.5; it must be at least 0"),
        ("temperature", np.inf, "temperature is inf; it must be at least 0"),
        ("top_k", 17, "top_k is 17; it must be from 0 to 16"),
        ("top_k", -1, "top_k is -1; it must be from 0 to 16"),
        ("top_p", 0.0, "top_p is 0; it must be above 0 and at most 1"),
        ("top_p", 1.5, "top_p is 1.5; it must be above 0 and at most 1"),
        ("top_p", np.nan, "top_p is nan; it must be above"),
        ("guidance_scale", -1.0, "guidance_scale is -1; it must be at least 0"),
        ("guidance_scale", np.nan, "guidance_scale is nan; it must be at least 0"),
    ],
)
def test_a_bad_setting_is_refused_in_its_row_alone(ask, name, value, message):
    given = {key: list(values) for key, values in GENERATE.items()}
    given[name][1] = value
    answer, undisturbed = ask("generate", **given), ask("generate", **GENERATE)
    assert answer["error"][1].startswith(message)
    assert (answer["tokens"][1] == -1).all()
    assert answer["image_bytes"][1] == b""
    for row in (0, 2, 3, 4):
        assert answer["error"][row] == ""
        np.testing.assert_array_equal(answer["tokens"][row], undisturbed["tokens"][row])
        assert answer["image_bytes"][row] == undisturbed["image_bytes"][row]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("label", value) for value in (-1, 2)),
        *(("seed", value) for value in (-(2**31) - 1, 2**32)),
        *((name, np.nan) for name in ("temperature", "top_p", "guidance_scale")),
        *(("temperature", value) for value in (-0.5, np.inf, -np.inf)),
        *(("top_k", value) for value in (-1, 17)),
        *(("top_p", value) for value in (0.0, -1.0, 1.5, np.inf)),
        *(("guidance_scale", value) for value in (-1.0, np.inf)),
    ],
)
def test_python_refuses_the_same_values_in_the_same_words(ask, run, name, value):
    given = {key: list(values) for key, values in GENERATE.items()}
    given[name][1] = value
    answer = ask("generate", **given)["error"]
    labels, seed = given.pop("label"), given.pop("seed")
    with pytest.raises(UserError) as refused:
        run.vim.generate(labels, seed, **given)
    # NumPy writes 1.0, TensorFlow writes 1.
    assert str(refused.value).replace(".0;", ";") == answer[1]


@pytest.mark.parametrize("signature", ["decode", "decode_bytes"])
@pytest.mark.parametrize("token", [-1, 16, 2**31 - 1])
def test_a_token_out_of_range(ask, signature, token):
    good = np.arange(16).reshape(1, 16).repeat(3, 0)
    bad = good.copy()
    bad[1, 5:7] = token, 99
    answer, undisturbed = ask(signature, tokens=bad), ask(signature, tokens=good)
    assert answer["error"] == ["", f"tokens is {token}; it must be from 0 to 15", ""]
    pixels = "images" if signature == "decode" else "image_bytes"
    assert not np.any(answer[pixels][1])
    for row in (0, 2):
        np.testing.assert_array_equal(answer[pixels][row], undisturbed[pixels][row])


@pytest.mark.parametrize("signature", ["tokenize_bytes", "embed_bytes"])
def test_a_file_that_is_no_image(ask, images, signature):
    files = encode_pngs(images[:3])
    answer = ask(signature, image_bytes=[files[0], b"no image", files[2]])
    undisturbed = ask(signature, image_bytes=files)
    output = "tokens" if signature == "tokenize_bytes" else "features"
    assert answer["error"] == ["", "image_bytes is neither JPEG nor PNG", ""]
    assert (answer[output][1] == (-1 if output == "tokens" else 0)).all()
    np.testing.assert_array_equal(answer[output][[0, 2]], undisturbed[output][[0, 2]])


def test_an_image_of_too_many_pixels(ask):
    file = tf.io.encode_png(tf.zeros([101, 100, 3], tf.uint8)).numpy()
    assert "at most 10,000" in ask("tokenize_bytes", image_bytes=[file])["error"][0]


def test_the_token_loop_is_traced_twice(run, monkeypatch):
    """Once with guidance and once without, for all signatures."""
    traced, original = [], VIM.sample_tokens

    def note(self, *settings):
        traced.append(settings[-1] is not None)
        return original(self, *settings)

    monkeypatch.setattr(VIM, "sample_tokens", note)
    for function in Signatures(run.tokenizer, run.vim).functions().values():
        function.get_concrete_function()
    assert sorted(traced) == [False, True]


# List of signatures -----------------------------------------------------------------------------


def names(signatures):
    return set(signatures.functions())


STAGE_1 = {"tokenize", "tokenize_bytes", "decode", "decode_bytes", "reconstruct"}


def with_config(vim, classes=2, **changes):
    return VIM(dataclasses.replace(vim.config, **changes), vim.grid, vim.codes, classes)


def test_signatures_by_model(run, signatures):
    embedding = STAGE_1 | {"embed", "embed_bytes"}
    generating = {"generate", "generate_default"}
    assert names(signatures) == embedding | generating | {"generate_unlabelled"}
    assert next(iter(signatures.functions())) == "generate"
    alone = Signatures(run.tokenizer, None)
    assert names(alone) == STAGE_1
    assert next(iter(alone.functions())) == "tokenize"
    never_null = Signatures(run.tokenizer, with_config(run.vim, label_drop=0.0))
    assert names(never_null) == embedding | generating
    rows = {"label": [1, 0], "seed": [1, 2], "temperature": [1.0] * 2, "top_k": [0] * 2}
    rows |= {"top_p": [1.0] * 2, "guidance_scale": [2.0, 1.0]}
    specs = never_null.functions()["generate"].input_signature
    given = {spec.name: tf.constant(rows[spec.name], spec.dtype) for spec in specs}
    answer = never_null.functions()["generate"](**given)
    assert (
        answer["error"].numpy()[0].startswith(b"guidance_scale is 2; it must be 1, because guida")
    )
    assert answer["error"].numpy()[1] == b""


def test_a_model_without_labels_has_none_in_its_inputs(run):
    vim = with_config(run.vim, conditional=False)
    functions = Signatures(run.tokenizer, vim).functions()
    inputs = {
        name: [spec.name for spec in functions[name].input_signature]
        for name in functions
        if "generate" in name
    }
    settings = ["seed", "temperature", "top_k", "top_p"]
    assert inputs == {"generate": settings, "generate_default": ["seed"]}
    seeds = tf.constant([5, 6], tf.int64)
    answer = functions["generate_default"](seed=seeds)
    np.testing.assert_array_equal(answer["tokens"], vim.generate(seed=seeds.numpy()))


def test_the_block_of_embed(run):
    assert [default_block(blocks) for blocks in (1, 4, 24, 36)] == [1, 2, 10, 15]
    assert Signatures(run.tokenizer, run.vim, block=1).block == 1
    for block in (0, 2):
        with pytest.raises(UserError, match=f"embed_block is {block}; this model has blocks 1 "):
            Signatures(run.tokenizer, run.vim, block=block)
