"""Runs in a bucket equal those on a disk. Here the bucket is TensorFlow's file system in memory."""

import numpy as np
import pytest
import tensorflow as tf
from etils.epath import gpath

import vim_tf
from vim_tf import train
from vim_tf.errors import UserError
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.runs.run import Run, find_preset
from vim_tf.runs.trained_run import open_run


def files(folder):
    """File names in a folder. In memory, a listing also has parts of names with the same prefix."""
    found = set()
    for parent, _, names in tf.io.gfile.walk(folder):
        inside = parent.removeprefix(folder).strip("/")
        names = [name for name in names if tf.io.gfile.exists(f"{parent}/{name}")]
        found |= {f"{inside}/{name}".strip("/") for name in names}
    return found


@pytest.mark.large
def test_both_stages(bucket, tiny_configs, tiny_runs, capsys):
    def run(stage, *settings):
        given = ["--config", str(tiny_configs[stage]), "--workdir", f"{bucket}/{stage}"]
        train.main([*given, "--set", *settings])

    head = ("model.refinement_channels=5", "model.overlapping_patches=true")
    run("vit_vqgan", "losses.adversarial=0", *head)  # as `tiny_runs`
    run("vim", f"tokenizer.run={bucket}/vit_vqgan")
    for stage in ("vit_vqgan", "vim"):
        on_disk, there = vim_tf.load(tiny_runs[stage]), vim_tf.load(f"{bucket}/{stage}")
        for a, b in zip(on_disk.weights, there.weights, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=a.path)
        written = {
            str(path.relative_to(tiny_runs[stage])): path
            for path in tiny_runs[stage].rglob("*")
            if path.is_file() and path.name != "lock" and "tensorboard" not in path.parts
        }
        found = {name for name in files(f"{bucket}/{stage}") if not name.startswith("tensorb")}
        assert found == set(written)
        lines = [
            [(line["step"], line["kind"]) for line in Run(run).read_metrics()]
            for run in (tiny_runs[stage], f"{bucket}/{stage}")
        ]
        assert lines[0] == lines[1] and len(lines[0]) > 4
    samples = [
        ImageGenerator.load(run).generate([0], n=1) for run in (tiny_runs["vim"], f"{bucket}/vim")
    ]
    np.testing.assert_array_equal(*samples)

    capsys.readouterr()
    run("vim", f"tokenizer.run={bucket}/vit_vqgan")
    assert "resuming at step 6" in capsys.readouterr().err
    with pytest.raises(UserError, match="ram://bucket/vim is in a bucket; copy the run to a disk"):
        open_run(f"{bucket}/vim")


def test_a_preset_counts_once_it_is_whole(bucket, monkeypatch):
    run = Run(f"{bucket}/run")

    def save(folder):
        (folder / "tokenizer").mkdir(parents=True)
        for name in ("config.json", "model.weights.h5", "tokenizer/config.json"):
            (folder / name).write_text(name)

    run.save_preset(save)
    fetched = find_preset(run.path)
    assert (fetched / "tokenizer" / "config.json").read_text() == "tokenizer/config.json"

    write = gpath.PosixGPath.write_bytes

    def fail(path, data):
        if path.name == "model.weights.h5":
            raise OSError("the connection is gone")
        return write(path, data)

    monkeypatch.setattr(gpath.PosixGPath, "write_bytes", fail)
    with pytest.raises(OSError, match="the connection is gone"):
        run.save_preset(save)
    run.config_path.write_text("seed: 0")
    with pytest.raises(UserError, match="has saved no preset yet"):
        find_preset(run.path)
