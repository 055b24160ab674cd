"""`run_training` up to the first step; the loop has its own tests."""

import os
import shutil

from vim_tf.runs.run import Run
from vim_tf.stages import training


def test_what_is_left_out_is_said_and_kept_in_the_run(
    tiny, tiny_images, tmp_path, monkeypatch, capsys
):
    images = tmp_path / "images"
    shutil.copytree(tiny_images, images)
    (images / "train" / "red" / "notes.txt").write_text("text")
    os.mkfifo(images / "train" / "blue" / "pipe.png")
    monkeypatch.setattr(training.loop, "train", lambda *_: {"nats": 1.0})
    run = Run(tmp_path / "run")
    experiment = tiny("classifier", f"data.path={images}/train")
    assert training.run_training(experiment, run.path) == {"nats": 1.0}
    rows = (run.path / "left_out.tsv").read_text().splitlines()
    assert rows == [
        "path\treason",
        f"{images}/train/blue/pipe.png\tno regular file: a FIFO or a device",
        f"{images}/train/red/notes.txt\tthe ending .txt is not read",
    ]
    said = capsys.readouterr().err
    assert "data: 2 left out: 1 FIFO, socket or device, 1 file of another kind (.txt 1)\n" in said
    assert f"data: {run.path}/left_out.tsv has the names of what is left out\n" in said
    # A list of an earlier start does not stay.
    (images / "train" / "red" / "notes.txt").unlink()
    (images / "train" / "blue" / "pipe.png").unlink()
    training.run_training(experiment, run.path)
    assert not (run.path / "left_out.tsv").exists()
