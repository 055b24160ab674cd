import numpy as np
import pytest

from vim_tf import formats, tokenize_dataset, train
from vim_tf.data.token_cache import TokenCache
from vim_tf.errors import UserError


@pytest.fixture
def arguments(tiny_configs, tiny_runs):
    overrides = ["--set", f"tokenizer.run={tiny_runs['vit_vqgan']}"]
    return ["--config", str(tiny_configs["vim"]), *overrides]


def test_a_cache_by_hand_is_the_one_that_training_makes(arguments, tiny_runs, tmp_path, capsys):
    tokenize_dataset.main([*arguments, "--out", str(tmp_path / "cache")])
    output = capsys.readouterr().out
    assert "images: 24\n" in output
    assert "images_per_label: [12, 12]\n" in output
    folders = (tmp_path / "cache", tiny_runs["vim"] / "tokens")
    caches = []
    for folder in folders:
        header = formats.read_json(folder / "header.json", "token cache", "")
        caches.append(TokenCache.open(folder, header["token_hash"]))
    assert caches[0].header == caches[1].header
    for split in ("train", "validation"):
        np.testing.assert_array_equal(*(cache.tokens[split] for cache in caches))


def test_one_machine_makes_it(arguments, tmp_path):
    with pytest.raises(
        UserError, match="strategy is multi_worker, .* by one machine; set mirrored"
    ):
        tokenize_dataset.main(
            [*arguments, "training.strategy=multi_worker", "--out", str(tmp_path / "cache")]
        )


def test_training_refuses_another_tokenizers_cache(arguments, tiny_runs, tmp_path):
    cache = tiny_runs["vim"] / "tokens"
    header = formats.read_json(cache / "header.json", "token cache", "")
    other = tmp_path / "cache"
    other.mkdir()
    for path in cache.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    header["token_hash"] = "0" * 64
    (other / "header.json").write_text(formats.to_json("token cache", header))
    with pytest.raises(UserError, match="has the tokens 0000000000000000, and the tok"):
        given = [*arguments, "--workdir", str(tmp_path / "run")]
        train.main([*given, "--set", f"tokenizer.cache={other}"])


def test_a_folder_is_needed(arguments):
    with pytest.raises(UserError, match="give --out or tokenizer.cache"):
        tokenize_dataset.main(arguments)


def test_only_vims_configs(tiny_configs, tmp_path):
    with pytest.raises(UserError, match="experiment vit_vqgan"):
        config = str(tiny_configs["vit_vqgan"])
        tokenize_dataset.main(["--config", config, "--out", str(tmp_path / "cache")])
