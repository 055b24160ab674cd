"""Caches, runs, presets, features, tokenizers are used only with the images of their making.

Each test changes copies of the images and of the tiny runs, and gives the same command again.
"""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vim_tf import probe, train
from vim_tf.config import loader
from vim_tf.errors import UserError
from vim_tf.fingerprints import IMAGES_FILE
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.runs.run import Run
from vim_tf.runs.trained_run import open_run


@pytest.fixture
def world(tiny_runs, tiny_classifier, tiny_images, tmp_path):
    """Copies of the images and the runs, which were trained on images at another path."""
    images = tmp_path / "images"
    shutil.copytree(tiny_images, images)
    runs = {"classifier": tiny_classifier, **tiny_runs}
    copies = {name: tmp_path / "runs" / name for name in runs}
    for name, folder in copies.items():
        shutil.copytree(runs[name], folder)
        _move(folder, tiny_images, images)
        _move(folder, tiny_runs["vit_vqgan"], copies["vit_vqgan"])
    return SimpleNamespace(images=images, **copies)


def _move(folder, old, new):
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace(str(old), str(new)))


def again(folder, *overrides):
    """Starts the command of a run again."""
    config = folder / "config.yaml"
    train.main(["--config", str(config), "--workdir", str(folder), "--set", "seed=0", *overrides])


def start_over(folder, steps=3):
    """Changes a finished run to one that was stopped early, so that it can resume."""
    for path in folder.glob("checkpoints/step_*"):
        if int(path.name[5:]) > steps:
            shutil.rmtree(path)


def rename_class(world, old="blue", new="azure"):
    for split in ("train", "validation"):
        (world.images / split / old).rename(world.images / split / new)


def add_class(world):
    for split in ("train", "validation"):
        shutil.copytree(world.images / split / "red", world.images / split / "birds")


def replace_by_noise(world, keep_times=False):
    """Writes other pixels under the same names, in files of the same size."""
    rng = np.random.default_rng(1)
    for path in sorted(world.images.rglob("*.png")):
        size, mtime = path.stat().st_size, path.stat().st_mtime_ns
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        assert path.stat().st_size <= size
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))  # the PNG ends before these bytes
        os.utime(path, ns=(mtime, mtime) if keep_times else (mtime + 10**9, mtime + 10**9))


def touch(world):
    for path in world.images.rglob("*.png"):
        os.utime(path)


def snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", "config.yaml", IMAGES_FILE)
    }


CHANGES = {
    rename_class: "other images: as many .* as now; first difference blue/ then, azure/ now",
    add_class: "other images: 2 classes then, 3 now; .*; first difference birds/",
    replace_by_noise: r"other images: first difference blue/\d+.png",
}


@pytest.mark.large
@pytest.mark.parametrize("stage", ["vit_vqgan", "vim", "classifier"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_does_not_go_on_with_other_images(world, stage, change, capsys):
    folder = getattr(world, stage)
    change(world)
    before = snapshot(folder)
    with pytest.raises(UserError, match=CHANGES[change]) as caught:
        again(folder)
    assert "\n" not in str(caught.value)
    assert snapshot(folder) == before


@pytest.mark.large
@pytest.mark.parametrize("stage", ["vit_vqgan", "vim"])
def test_a_run_goes_on_with_the_same_images(world, stage, capsys):
    """The images are at another path and have other times."""
    folder = getattr(world, stage)
    touch(world)
    start_over(folder)
    again(folder)
    assert Run(folder).read_metrics()[-1]["step"] == 6


@pytest.mark.large
def test_a_run_online_does_not_go_on_with_another_tokenizer(world, tmp_path):
    overrides = ["tokenizer.online=true", "training.checkpoint_every=3"]
    folder, config = tmp_path / "online", str(world.vim / "config.yaml")
    given = ["--config", config, "--workdir", str(folder), "--set", *overrides]
    train.main(given)
    other = tmp_path / "other"
    tokenizer = str(world.vit_vqgan / "config.yaml")
    train.main(["--config", tokenizer, "--workdir", str(other), "--set", "seed=9"])
    shutil.rmtree(world.vit_vqgan)
    other.rename(world.vit_vqgan)
    start_over(folder)
    with pytest.raises(
        UserError, match="was trained on the tokens .* in use makes .*: they mean different things"
    ):
        train.main(given)


def test_a_shared_cache_does_not_serve_renamed_classes(world, tmp_path):
    shared = tmp_path / "shared"
    (world.vim / "tokens").rename(shared)
    rename_class(world)
    config = str(world.vim / "config.yaml")
    given = ["--config", config, "--workdir", str(tmp_path / "new")]
    with pytest.raises(UserError, match=r"shared was made from other images.*azure/ now; delete"):
        train.main([*given, "--set", f"tokenizer.cache={shared}"])


def test_views_and_figures_of_a_run_are_of_its_images(world):
    """A run is opened only with the images of its training."""
    assert open_run(world.vim).data.train_size == 24
    touch(world)
    assert open_run(world.vim).data.train_size == 24
    replace_by_noise(world)
    with pytest.raises(
        UserError, match=r"vim was made from other images: first .*blue/0.png; give"
    ):
        open_run(world.vim).data  # noqa: B018
    assert open_run(world.vim, other_images=True).data.train_size == 24
    add_class(world)
    with pytest.raises(UserError, match="2 classes then, 3 now"):
        open_run(world.vit_vqgan).data  # noqa: B018


@pytest.mark.large
def test_features_of_a_probe_are_of_the_images_that_lie_there(world, capsys):
    given = ["--run", str(world.vim), "--blocks", "1"]
    probe.main([*given, "--out", str(world.vim / "first")])
    kept = list((world.vim / "features").iterdir())
    probe.main([*given, "--out", str(world.vim / "second")])
    assert list((world.vim / "features").iterdir()) == kept
    replace_by_noise(world)
    with pytest.raises(UserError, match="made from other images"):
        probe.main([*given, "--out", str(world.vim / "third")])
    probe.main([*given, "--out", str(world.vim / "fourth"), "--other-images"])
    assert len(list((world.vim / "features").iterdir())) == 2 * len(kept)


def test_a_preset_with_another_tokenizer_inside_is_refused(world):
    inner = world.vim / "preset" / "tokenizer"
    tokenizer = ImageGenerator.load(world.vim).tokenizer
    codebook = tokenizer.quantizer.codebook
    codebook.assign(np.asarray(codebook)[::-1])
    tokenizer.save_to_preset(inner)
    with pytest.raises(UserError, match="tokenizer makes the tokens .* this VIM was trained on"):
        ImageGenerator.load(world.vim)


def test_a_run_of_an_earlier_format_is_refused(world):
    """The run is from a version before runs had a format number."""
    path = world.vim / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    assert [line.split(":")[0] for line in lines[:2]] == ["format", "written_by"]
    path.write_text("".join(lines[2:]))
    with pytest.raises(UserError, match="no format number and was written by an earlier vim_tf"):
        open_run(world.vim)
    path.write_text("format: 99\nwritten_by: vim_tf 7.5\n" + "".join(lines[2:]))
    with pytest.raises(UserError, match=r"has the format 99 and was written by vim_tf 7\.5"):
        open_run(world.vim)
    with pytest.raises(UserError, match=r"has the format 99"):
        loader.load_config([path])
