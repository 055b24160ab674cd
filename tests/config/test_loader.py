import dataclasses
import subprocess
import sys

import pytest

from vim_tf.config.experiments import EXPERIMENTS, VIMExperiment, ViTVQGANExperiment
from vim_tf.config.loader import load_config
from vim_tf.config.sections import TRANSFORMER_PRESETS, OptimizerConfig, TransformerConfig
from vim_tf.errors import UserError


@pytest.fixture
def load(tmp_path):
    """Loads YAML texts, which are written to a.yaml, b.yaml and so on, with overrides."""

    def load(*texts, overrides=()):
        paths = []
        for name, text in zip("abc", texts, strict=False):
            paths.append(tmp_path / f"{name}.yaml")
            paths[-1].write_text(text)
        return load_config([str(path) for path in paths], overrides)

    return load


@pytest.fixture
def refuse(load, tmp_path):
    """Expects a UserError of one line; returns it without the path of the files' folder."""

    def refuse(*texts, overrides=()):
        with pytest.raises(UserError) as caught:
            load(*texts, overrides=overrides)
        message = str(caught.value)
        assert "\n" not in message
        return message.replace(f"{tmp_path}/", "")

    return refuse


# Merging ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_without_other_keys_it_is_the_experiments_default(load, name):
    assert load(f"experiment: {name}") == EXPERIMENTS[name]()


def test_unset_keys_keep_the_experiments_default_not_the_sections(load):
    config = load("experiment: vim\noptimizer: {learning_rate: 1e-3}")
    expected = dataclasses.replace(VIMExperiment().optimizer, learning_rate=1e-3)
    assert config.optimizer == expected
    assert config.optimizer.beta_2 == 0.96 != OptimizerConfig().beta_2


def test_later_files_win_key_by_key_and_overrides_win_over_files(load):
    config = load(
        "experiment: vim\nseed: 1\noptimizer: {learning_rate: 1.0, beta_1: 0.1, beta_2: 0.1}",
        "optimizer: {beta_1: 0.2, beta_2: 0.2}",
        "optimizer: {beta_2: 0.3}",
        overrides=["seed=7", "seed=8"],
    )
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.beta_1, optimizer.beta_2) == (1.0, 0.2, 0.3)
    assert config.seed == 8


def test_a_later_file_or_an_override_may_pick_the_experiment(load):
    assert isinstance(load("experiment: vim", "experiment: vit_vqgan"), ViTVQGANExperiment)
    assert isinstance(load("seed: 1", overrides=["experiment=vim"]), VIMExperiment)


def test_a_preset_then_a_key_of_it(load):
    config = load(
        "experiment: vit_vqgan\nmodel: {encoder: small}",
        "model: {encoder: {heads: 4}}",
        overrides=["model.encoder.blocks=4", "model.decoder=large"],
    )
    expected = dataclasses.replace(TRANSFORMER_PRESETS["small"], heads=4, blocks=4)
    assert config.model.encoder == expected
    assert config.model.decoder == TRANSFORMER_PRESETS["large"]


def test_a_preset_replaces_every_key_that_came_before_it(load):
    config = load(
        "experiment: vim\nmodel: {transformer: {blocks: 4}}", "model: {transformer: base}"
    )
    assert config.model.transformer == TRANSFORMER_PRESETS["base"]
    assert TRANSFORMER_PRESETS["base"] == TransformerConfig(12, 12, 768, 3072)


def test_checks_see_the_merged_values_only(load):
    config = load("experiment: vit_vqgan\nmodel: {patch_size: 7}", "data: {image_size: 28}")
    assert config.grid == (4, 4)


# Values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("1E+2", 100.0), (".5", 0.5), ("3.", 3.0), ("2", 2.0), ("-0.0", 0.0)],
)
def test_numbers_are_read_as_yaml_1_2_reads_them(load, text, number):
    config = load(f"experiment: vim\noptimizer: {{weight_decay: {text}}}")
    assert config.optimizer.weight_decay == number
    assert type(config.optimizer.weight_decay) is float


@pytest.mark.parametrize(
    ("text", "number"), [("010", 10), ("50_000", 50_000), ("+3", 3), ("-3", -3)]
)
def test_whole_numbers(load, text, number):
    assert load(f"experiment: vim\nseed: {text}").seed == number


@pytest.mark.parametrize("word", ["off", "on", "yes", "no", "y", "1:30", "2024-01-01", "=", "<<"])
def test_only_true_and_false_are_booleans_and_dates_are_text(load, refuse, word):
    assert load(f"experiment: vim\ndata: {{name: {word}}}").data.name == word
    message = refuse(f"experiment: vim\ntraining:\n  jit_compile: {word}")
    assert message == f'a.yaml:3: training.jit_compile is "{word}"; expected true or false'


def test_booleans(load):
    assert load("experiment: vim\ntraining: {jit_compile: true}").training.jit_compile is True
    assert load("experiment: vim\nmodel: {conditional: false}").model.conditional is False


@pytest.mark.parametrize("text", ["32", "[32, 32]", "\n  - 32\n  - 32"])
def test_one_number_is_a_square(load, text):
    config = load(f"experiment: vit_vqgan\ndata:\n image_size: {text}")
    assert config.data.image_size == (32, 32)


def test_height_comes_first(load):
    config = load("experiment: vit_vqgan", overrides=["data.image_size=[32, 48]"])
    assert config.data.image_size == (32, 48)
    assert config.grid == (4, 6)


def test_null_unsets_an_optional_key(load):
    first = "experiment: vim\ntokenizer: {run: runs/a}"
    assert load(first).tokenizer.run == "runs/a"
    assert load(first, "tokenizer: {run: null}").tokenizer.run is None
    assert load(first, "tokenizer: {run: }").tokenizer.run is None
    assert load(first, overrides=["tokenizer.run=null"]).tokenizer.run is None


@pytest.mark.parametrize(
    "path", ["/a: b", "/a #1", "~", "[x", "1e-4", "a=b", "'q'", "{a}", "null/"]
)
def test_an_override_of_text_is_taken_as_it_stands(load, path):
    config = load("experiment: vim", overrides=[f"data.path={path}"])
    assert config.data.path == path


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", "1.0", "seed is 1.0; expected a whole number"),
        ("seed", "true", "seed is true; expected a whole number"),
        ("seed", "null", "seed is null; expected a whole number"),
        ("seed", "1.", "seed is 1.0; expected a whole number"),
        ("optimizer.beta_1", "true", "optimizer.beta_1 is true; expected a number"),
        ("optimizer.beta_1", "abc", 'optimizer.beta_1 is "abc"; expected a number'),
        ("optimizer.beta_1", "1e999", "optimizer.beta_1 is Infinity; expected a number"),
        ("optimizer.beta_1", ".inf", 'optimizer.beta_1 is ".inf"; expected a number'),
        ("training.jit_compile", "1", "training.jit_compile is 1; expected true or false"),
        (
            "training.strategy",
            "mirorred",
            'training.strategy is "mirorred"; expected one of one_device, mirrored, multi_worker, '
            "tpu; did you mean mirrored?",
        ),
        (
            "data.image_size",
            "[1, 2, 3]",
            "data.image_size is [1, 2, 3]; expected a list of 2, each a whole number, "
            "or one for all",
        ),
        ("data.image_size", "[1, 2.5]", "data.image_size is 2.5; expected a whole number"),
        ("data.image_size", "true", "data.image_size is true; expected a list of 2, each a w"),
        (
            "model.transformer",
            "bas",
            'model.transformer is "bas"; expected a section with keys blocks, heads, dim, '
            "mlp_dim, dropout, or one of small, base, large, vim_base, vim_large; "
            "did you mean base?",
        ),
        ("model.transformer", "3", "model.transformer is 3; expected a section with keys blo"),
        ("optimizer", "null", "optimizer is null; expected a section with keys learning_rat"),
        ("seed", "{a: 1}", "seed is a section; expected a whole number"),
    ],
)
def test_a_wrong_type_names_key_value_and_type(refuse, key, value, expected):
    override = f"{key}={value}"
    by_override = refuse("experiment: vim", overrides=[override])
    assert by_override.startswith(f"override {override}: {expected}")
    *sections, last = key.split(".")
    opening = "".join(f"{section}: {{" for section in sections)
    text = f"experiment: vim\n{opening}{last}: {value}{'}' * len(sections)}\n"
    assert refuse(text).startswith(f"a.yaml:2: {expected}")


def test_text_must_be_quoted_when_it_looks_like_a_number(load, refuse):
    assert refuse("experiment: vim\ndata: {name: 7}") == (
        "a.yaml:2: data.name is 7; expected text, or null"
    )
    assert load("experiment: vim\ndata: {name: '7'}").data.name == "7"


# Keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optimizer:\n  lerning_rate: 1",
            "a.yaml:3: unknown key optimizer.lerning_rate; did you mean optimizer.learning_rate?",
        ),
        ("optimiser: {}", "a.yaml:2: unknown key optimiser; did you mean optimizer?"),
        ("learning_rate: 1", "a.yaml:2: unknown key learning_rate; did you mean optimizer.l"),
        (
            "data:\n  augmentation: {qqq: 1}",
            "a.yaml:3: unknown key data.augmentation.qqq; allowed here: crop, min_area, flip",
        ),
        ("<<: {seed: 1}", "a.yaml:2: unknown key <<; allowed here: seed, data"),
        ("grid: [4, 4]", "a.yaml:2: unknown key grid; "),
    ],
)
def test_an_unknown_key(refuse, text, message):
    assert refuse(f"experiment: vim\n{text}").startswith(message)


def test_an_unknown_key_in_an_override(refuse):
    assert refuse("experiment: vim", overrides=["data.nam=x"]) == (
        "override data.nam=x: unknown key data.nam; did you mean data.name?"
    )
    assert refuse("experiment: vim", overrides=["dta.name=x"]) == (
        "override dta.name=x: unknown key dta; did you mean data?"
    )
    assert refuse("experiment: vim", overrides=["seed.x=1"]) == (
        "override seed.x=1: seed is no section; it is a whole number"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\ndata: {}\nseed: 1", "a.yaml:4: key seed is given twice"),
        ("data:\n  name: a\n  name: b", "a.yaml:4: key data.name is given twice"),
        ("experiment: vim", "a.yaml:2: key experiment is given twice"),
        ("'seed': 1\nseed: 2", "a.yaml:3: key seed is given twice"),
    ],
)
def test_a_key_given_twice(refuse, text, message):
    assert refuse(f"experiment: vim\n{text}") == message


def test_the_same_key_in_two_files_is_no_duplicate(load):
    assert load("experiment: vim\nseed: 1", "experiment: vim\nseed: 2").seed == 2


@pytest.mark.parametrize("override", ["seed", "=3", ""])
def test_an_override_without_key_or_value_sign(refuse, override):
    assert refuse("experiment: vim", overrides=[override]) == (
        f"override {override}: expected section.key=value"
    )


def test_an_override_without_a_value(refuse):
    assert refuse("experiment: vim", overrides=["data.path="]) == (
        "override data.path=: the value is missing; to unset a key write data.path=null"
    )
    assert "only a comment" in refuse("experiment: vim", overrides=["seed=# 3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "experiment is not set; it must be one of vit_vqgan, decoder, vim"),
        (
            "seed: 1\nexperiment: vit_vqgn",
            'a.yaml:2: experiment is "vit_vqgn"; it must be one of vit_vqgan, decoder, vim, '
            "classifier, linear_probe; "
            "did you mean vit_vqgan?",
        ),
        ("experiment: [vim]", 'a.yaml:1: experiment is ["vim"]; it must be one of vit_vqgan, d'),
    ],
)
def test_the_experiment_must_be_known(refuse, text, message):
    assert refuse(text).startswith(message)


# Files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml: the file is empty; it needs at least the key experiment"),
        ("# experiment: vim\n", "a.yaml: the file is empty; it needs at least the key experiment"),
        ("\n- vim", "a.yaml:2: expected keys such as experiment: vit_vqgan"),
        ("vim", "a.yaml:1: expected keys such as experiment: vit_vqgan"),
        ("experiment: vim\nseed: [1", "a.yaml:2: not valid YAML: "),
        ("experiment: vim\n\tseed: 1", "a.yaml:2: not valid YAML: "),
        ("experiment: vim\n\nseed: \a", "a.yaml:3: not valid YAML: the character U+0007 is not"),
        ("experiment: vim\n? [seed]\n: 1", "a.yaml:2: a key must be a name"),
    ],
)
def test_a_file_that_holds_no_config(refuse, text, message):
    assert refuse(text).startswith(message)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"cannot read config \S+/no.yaml: No such file"):
        load_config([tmp_path / "no.yaml"])
    with pytest.raises(UserError, match="cannot read config .*: Is a directory"):
        load_config([tmp_path])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read config .*: it is not UTF-8 text"):
        load_config([tmp_path / "binary.yaml"])


# Checks of the dataclasses ----------------------------------------------------------------------


def test_a_check_that_names_its_key_passes_as_it_is(refuse):
    assert refuse("experiment: vim\noptimizer: {beta_1: 2}") == (
        "optimizer.beta_1 is 2.0; it must be from 0 to below 1"
    )
    assert refuse("experiment: vit_vqgan\ndata: {image_size: 30}").startswith(
        "data.image_size is 30 x 30 and model.patch_size is 8;"
    )


def test_a_check_of_a_class_with_several_sections_is_told_which(refuse):
    assert refuse("experiment: vit_vqgan\nmodel: {decoder: {heads: 7}}") == (
        "in model.decoder: dim is 768 and heads is 7; dim must be a multiple of heads"
    )
    assert refuse("experiment: vit_vqgan\ndiscriminator_optimizer: {beta_1: 2}") == (
        "in discriminator_optimizer: optimizer.beta_1 is 2.0; it must be from 0 to below 1"
    )


# Start-up ----------------------------------------------------------------------------------------


def test_configs_are_read_without_tensorflow_and_keras():
    code = (
        "import sys, vim_tf.config.loader as loader; loader.config_help();"
        "loader.load_config([], ['experiment=vim']);"
        "print(sorted({'tensorflow', 'keras', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")
