"""Run folders: the files that a training writes, and how to find them again.

<run>/config.yaml        the resolved config; `--config <run>/config.yaml` repeats the run
<run>/checkpoints/       full training state, the last few and the best
<run>/preset/            the averaged weights, for everything but training
<run>/preset_best/       the averaged weights of the best evaluation
<run>/lock               the process that trains
<run>/images.npz         names, sizes, times and hashes of the files that it is trained on
<run>/left_out.tsv       files and folders of the data set that are not used, and why
<run>/metrics.jsonl      one JSON object per report: step, kind ("train", "evaluation"), numbers
<run>/tensorboard/       the same for TensorBoard, with images and histograms
<run>/images/            PNG files

A run can be in a bucket, gs://...: there a preset is replaced file by file, its config.json last,
and there is no lock.
"""

import atexit
import contextlib
import functools
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from vim_tf.annotations import StrPath
from vim_tf.config import loader
from vim_tf.config.experiments import Experiment, ViTVQGANExperiment
from vim_tf.config.sections import ViTVQGANConfig
from vim_tf.errors import UserError
from vim_tf.files import is_in_bucket, write_atomically
from vim_tf.messages import shorten

PRESET_CONFIG = "config.json"


class Run:
    """The folder of one training run.

    Args:
        path: the folder; need not exist yet.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = epath.Path(path)
        self.config_path = self.path / "config.yaml"
        self.checkpoint_dir = self.path / "checkpoints"
        self.preset_dir = self.path / "preset"
        self.best_preset_dir = self.path / "preset_best"
        self.lock_path = self.path / "lock"
        self.metrics_path = self.path / "metrics.jsonl"
        self.tensorboard_dir = self.path / "tensorboard"
        self.image_dir = self.path / "images"

    def check(self, experiment: Experiment) -> None:
        """Raises UserError if this folder belongs to a run of another config or is no run.

        A run without checkpoints, for example after a mistake in its config, may be replaced.
        """
        if self.config_path.exists():
            if not self.checkpoint_dir.exists():
                return
            lines = loader.diff(self.load_experiment(), experiment)
            if lines:
                raise UserError(
                    f"{self.path} is a run of another config ({'; '.join(lines)}); "
                    "give another workdir, or the old config to resume it"
                )
        elif self.path.exists() and (not self.path.is_dir() or self._holds_more_than_a_lock()):
            raise UserError(
                f"{self.path} exists and is no run of vim_tf; give a new or empty workdir"
            )

    def start(self, experiment: Experiment) -> None:
        """Makes the folder and writes the config."""
        self.check(experiment)
        self._make_folder()
        try:
            # The config first: a folder with other files but no config is not a run.
            write_atomically(self.config_path, loader.to_yaml(experiment, of_run=True))
            self.image_dir.mkdir(exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.path} cannot be written ({error.strerror}); give another workdir")

    def _holds_more_than_a_lock(self) -> bool:
        return any(path != self.lock_path for path in self.path.iterdir())

    def load_experiment(self, overrides: Sequence[str] = ()) -> Experiment:
        """Returns the config of this run, with `--set` overrides; UserError if there is none."""
        if not self.config_path.exists():
            raise UserError(f"{self.path} is no run: it has no config.yaml; give a run's folder")
        return loader.load_config([self.config_path], overrides, of_run=True)

    def save_preset(self, save: Callable[[Path | epath.Path], object], best: bool = False) -> None:
        """Calls `save(folder)` and then replaces the preset by that folder.

        Args:
            save: writes a preset into a folder.
            best: whether to replace `preset_best`, the preset of the best evaluation so far.
        """
        place = self.best_preset_dir if best else self.preset_dir
        if is_in_bucket(place):
            with tempfile.TemporaryDirectory() as folder:
                save(Path(folder))
                _copy_preset(Path(folder), place)
            return
        new, old = place.with_name(f"{place.name}.new"), place.with_name(f"{place.name}.old")
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
        save(new)
        if place.exists():
            os.replace(place, old)
        os.replace(new, place)
        shutil.rmtree(old, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Prevents other processes from training in this folder.

        The operating system frees the lock however its process ends. It may not see processes on
        other machines; then the name of the machine in the file is compared. In a bucket there is
        no lock.

        Raises:
            UserError: another process has the lock.
        """
        if is_in_bucket(self.path):
            yield
            return
        import fcntl  # does not exist on Windows, where everything but training works

        self._make_folder()
        with open(self.lock_path, "a+") as file:
            file.seek(0)
            holder, _, machine = file.read().strip().partition(" on ")
            here = socket.gethostname()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"{self.path} is being trained by {holder} on {machine}; wait until it ends, "
                    "or give another workdir"
                ) from None
            if machine not in ("", here):
                raise UserError(
                    f"{self.path} is being trained by {holder} on {machine}, as {self.lock_path} "
                    f"says; this is {here}. If that process is gone, remove the file"
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {here}\n")
            file.flush()
            try:
                yield
            finally:
                # Not removed: another process may have it open already.
                file.truncate(0)

    def append_metrics(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Adds one line to metrics.jsonl."""
        line = json.dumps({"step": step, "kind": kind, **values}) + "\n"
        if is_in_bucket(self.metrics_path):  # files there cannot be appended to
            before = self.metrics_path.read_text() if self.metrics_path.exists() else ""
            self.metrics_path.write_text(before + line)
            return
        with open(self.metrics_path, "a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # a run was killed while it wrote
                    line = "\n" + line
            file.write(line.encode())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Returns metrics.jsonl as a list of dicts; for a repeated step, the last one."""
        if not self.metrics_path.exists():
            return []
        records = {}
        for line in self.metrics_path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed while it wrote
            records[record["step"], record["kind"]] = record
        return sorted(records.values(), key=lambda record: record["step"])


def find_tokenizer_config(experiment: Experiment) -> ViTVQGANConfig | None:
    """Returns the `ViTVQGANConfig` of a VIM's tokenizer run; None if there is no such run yet."""
    tokenizer = getattr(experiment, "tokenizer", None)
    if tokenizer is None or not tokenizer.run:
        return None
    config_path = Run(tokenizer.run).config_path
    if not config_path.exists():
        return None
    found = loader.load_config([config_path])
    if not isinstance(found, ViTVQGANExperiment):
        raise UserError(
            f"tokenizer.run is {shorten(str(tokenizer.run))}, a run of experiment "
            f"{found.experiment}; give a run of experiment vit_vqgan"
        )
    return found.model


def find_preset(path: StrPath) -> Path | epath.Path:
    """Returns the preset folder of a run folder or of a preset folder, on a disk.

    A preset in a bucket is copied into a temporary folder, which is removed when the process ends.

    Raises:
        UserError: the path is neither of them, or the run has not saved a preset yet.
    """
    given = epath.Path(path)
    # Only the old one is there if a run was killed while it replaced the preset.
    for folder in (given, given / "preset", given / "preset.old"):
        if (folder / PRESET_CONFIG).exists():
            return _fetch_preset(folder) if is_in_bucket(folder) else folder
    if (given / "config.yaml").exists():
        raise UserError(f"{given} has saved no preset yet; wait until its training saves one")
    raise UserError(f"{given} is neither a run nor a preset; give the workdir of a training")


def _copy_preset(source: Path | epath.Path, target: Path | epath.Path) -> None:
    """Copies a preset; its config.json comes last, so an incomplete copy is not a preset."""
    (target / PRESET_CONFIG).unlink(missing_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.name == PRESET_CONFIG):
        if path.is_dir():
            _copy_preset(path, target / path.name)
        elif path.is_file():
            (target / path.name).write_bytes(path.read_bytes())


@functools.cache
def _temporary_folder() -> str:
    """Returns a folder that is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="vim_tf_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _fetch_preset(folder: epath.Path) -> Path:
    """Copies a preset from a bucket to a disk; returns the copy."""
    place = Path(tempfile.mkdtemp(dir=_temporary_folder()))
    _copy_preset(folder, place)
    return place
