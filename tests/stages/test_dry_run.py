import io
import re
import tempfile

import numpy as np
import pytest

from vim_tf.errors import UserError
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.stages import dry_run as module
from vim_tf.stages.dry_run import dry_run
from vim_tf.trainers.trainer import Trainer

WITHOUT_DISCRIMINATOR = "losses.adversarial=0"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder for temporary folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def lines_of(experiment):
    stream = io.StringIO()
    dry_run(experiment, stream)
    return stream.getvalue().splitlines()


def seconds(lines):
    """{action: seconds} from the lines that state a time."""
    timed = (re.fullmatch(r"(\S.*): ([\d.]+) s", line) for line in lines)
    return {found[1]: float(found[2]) for found in timed if found}


@pytest.mark.large
@pytest.mark.parametrize(
    "adversarial", [0, pytest.param(0.1, marks=pytest.mark.large, id="discriminator")]
)
def test_tokenizer(tiny, folder, monkeypatch, adversarial):
    drawn = []
    monkeypatch.setattr(
        module.grids,
        "write_png",
        lambda path, image, write=module.grids.write_png: (
            drawn.append((path, image)),
            write(path, image),
        ),
    )
    lines = lines_of(tiny("vit_vqgan", f"losses.adversarial={adversarial}"))
    assert lines[-1] == "dry run: all good"
    assert list(seconds(lines)) == [
        "data opened",
        "a batch of training data read",
        "networks and optimizers built",
        "the first step, with its compilation",
        "a checkpoint saved",
        "the second step",
        "more steps",
        *["a step with R1, one of 2"] * bool(adversarial),
        "the checkpoint loaded",
        "a preset saved",
        "vim_tf.load of it",
        "a reconstruction made",
    ]
    text = "\n".join(lines)
    assert "24 images to train on, 10 held out; 2 classes" in text
    assert "images [8, 16, 16, 3] float32 from -" in text
    labels = dict(re.findall(r"(blue|red) (\d+)", text))
    assert sum(map(int, labels.values())) == 8
    assert "estimate for a replica of 8 images:" in text
    assert ("activations: discriminator" in text) == bool(adversarial)
    assert re.search(r"  [\d.]+ img/s", text)
    path, image = drawn[0]
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert folder in path.parents
    assert not list(folder.glob("vim_tf_*"))


@pytest.mark.large
def test_vim_tokenizes_its_batches(tiny, tmp_path, folder):
    tokenizer = ViTVQGAN(tiny("vit_vqgan").model, (16, 16))
    tokenizer.save_to_preset(tmp_path / "tokenizer", {"class_names": ["blue", "red"]})
    cache = tmp_path / "cache"
    experiment = tiny("vim", f"tokenizer.run={tmp_path / 'tokenizer'}", f"tokenizer.cache={cache}")
    lines = lines_of(experiment)
    assert "tokenizes its batches" in lines[0]
    assert not cache.exists()
    assert "a sample made" in seconds(lines)
    assert any(line.startswith("  nats") for line in lines)
    assert any(line.startswith("weights of the frozen tokenizer") for line in lines)
    assert lines[-1] == "dry run: all good"
    assert not list(folder.glob("vim_tf_*"))


@pytest.mark.large
def test_decoder(tiny, tmp_path, folder):
    tokenizer = ViTVQGAN(tiny("vit_vqgan").model, (16, 16))
    tokenizer.save_to_preset(tmp_path / "tokenizer")
    lines = lines_of(tiny("decoder", f"tokenizer.run={tmp_path / 'tokenizer'}"))
    assert {"the second step", "vim_tf.load of it", "a reconstruction made"} <= set(seconds(lines))
    assert any(line.startswith("weights of the frozen encoder and quantizer") for line in lines)
    assert lines[-1] == "dry run: all good"
    assert not list(folder.glob("vim_tf_*"))


@pytest.mark.large
def test_classifier(tiny, folder):
    lines = lines_of(tiny("classifier"))
    assert {"the second step", "vim_tf.load of it", "an image classified"} <= set(seconds(lines))
    assert any(line.startswith("  cross_entropy") for line in lines)
    assert re.match("  (blue|red), probability [01]", lines[-2])
    assert lines[-1] == "dry run: all good"
    assert not list(folder.glob("vim_tf_*"))


def test_vim_needs_a_tokenizer(tiny):
    with pytest.raises(UserError, match="tokenizer.run is not set"):
        lines_of(tiny("vim"))


@pytest.mark.large
def test_a_loss_that_is_no_number(tiny, folder):
    experiment = tiny("vit_vqgan", WITHOUT_DISCRIMINATOR, "optimizer.learning_rate=1e38")
    with pytest.raises(UserError, match="after the second step; lower optimizer.learning_rate"):
        lines_of(experiment)
    assert not list(folder.glob("vim_tf_*"))


@pytest.mark.large
def test_a_checkpoint_that_leaves_weights_out(tiny, monkeypatch):
    items = Trainer.checkpoint_items
    monkeypatch.setattr(
        Trainer,
        "checkpoint_items",
        lambda self: {k: v for k, v in items(self).items() if k != "ema_model"},
    )
    with pytest.raises(UserError, match="does not restore the weights of the first step"):
        lines_of(tiny("vit_vqgan", WITHOUT_DISCRIMINATOR))
