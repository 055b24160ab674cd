"""The weights of sums over the code's dimensions stop with the weight of the mean."""

import pytest

from vim_tf.config.loader import load_config
from vim_tf.errors import UserError


def refusal(tmp_path, *overrides, text="", name="config.yaml"):
    path = tmp_path / name
    path.write_text(f"experiment: vit_vqgan\n{text}")
    with pytest.raises(UserError) as caught:
        load_config([path], overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{path}:")


def test_a_file_is_translated_with_its_own_code_dim(tmp_path):
    text = "losses: {commitment: 0.02}\nmodel: {quantizer: {code_dim: 16}}\n"
    line = refusal(tmp_path, text=text)
    assert line == (
        "2: losses.commitment was the weight of a sum over the code's dimensions; write "
        "losses.commitment_mean: 0.32, the weight of the mean (the old 0.02 times "
        "model.quantizer.code_dim, 16)"
    )


def test_an_override_is_translated_with_the_last_code_dim(tmp_path):
    text = "model: {quantizer: {code_dim: 16}}\n"
    line = refusal(tmp_path, "losses.codebook=2", "model.quantizer.code_dim=8", text=text)
    assert line.startswith("override losses.codebook=2: ")
    assert "write losses.codebook_mean: 16, " in line


def test_the_default_code_dim_is_32(tmp_path):
    assert "losses.commitment_mean: 8, " in refusal(tmp_path, "losses.commitment=0.25")


@pytest.mark.parametrize("text", ["abc", "[1, 2]", "null"])
def test_a_value_that_is_no_number_has_no_translation(tmp_path, text):
    line = refusal(tmp_path, f"losses.commitment={text}")
    assert "write losses.commitment_mean: NUMBER, " in line


def test_other_overrides_may_be_any_text(tmp_path):
    (tmp_path / "a.yaml").write_text("experiment: vit_vqgan\n")
    experiment = load_config([tmp_path / "a.yaml"], ["data.path=a: b", "losses.l2=2"])
    assert experiment.data.path == "a: b"
