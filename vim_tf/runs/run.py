"""Run folders: the files that a training writes, and how to find them again.

<run>/config.yaml        the resolved config; `--config <run>/config.yaml` repeats the run
<run>/changes.jsonl      one JSON object for each time that the run went on with other settings
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
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from vim_tf.annotations import StrPath
from vim_tf.config import loader
from vim_tf.config.experiments import (
    DecoderExperiment,
    Experiment,
    TrainingExperiment,
    ViTVQGANExperiment,
)
from vim_tf.config.sections import ViTVQGANConfig
from vim_tf.errors import UserError
from vim_tf.failpoints import failpoint
from vim_tf.files import append_line, is_in_bucket, remove, set_aside, write_atomically
from vim_tf.formats import WRITTEN_BY
from vim_tf.locks import Held, locked
from vim_tf.messages import shorten
from vim_tf.runs.changes import Changes, check_steps, find_changes
from vim_tf.runs.metrics_log import MetricsLog

PRESET_CONFIG = "config.json"
MOST_DECODERS = 10  # runs of experiment decoder, each of the tokens of the one before
PRESETS = ("preset", "preset_best")  # the last averaged weights, and those of the best evaluation


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
        self.metrics = MetricsLog(self.metrics_path)
        self.tensorboard_dir = self.path / "tensorboard"
        self.image_dir = self.path / "images"

    def check(self, experiment: TrainingExperiment) -> Changes | None:
        """Compares the config of this run with the one with which it is to go on.

        A run without checkpoints, for example after a mistake in its config, may be replaced.

        Returns:
            The changes, see `changes.find_changes`; None if there is nothing to go on from.

        Raises:
            UserError: this folder is no run, or a setting changed that makes another experiment,
                or the run has done more steps than `training.steps`.
        """
        if self.config_path.exists():
            if not self.has_checkpoint():
                return None
            changes = find_changes(self.load_experiment(), experiment)
            if changes.refused:
                raise UserError(
                    f"{self.path} is a run of another config ({'; '.join(changes.lines)}); give "
                    "the old config to resume it, another workdir to start anew, or a new folder "
                    "as continue_as to go on from its weights with this config"
                )
            check_steps(experiment, self.last_step(), self.path)
            return changes
        if self.path.exists() and (not self.path.is_dir() or self._holds_more_than_a_lock()):
            raise UserError(
                f"{self.path} exists and is no run of vim_tf; give a new or empty workdir"
            )

    def last_step(self) -> int | None:
        """Returns the step of the newest checkpoint, which may be damaged; None without one."""
        if not self.checkpoint_dir.is_dir():
            return None
        steps = (step_of(path.name) for path in self.checkpoint_dir.iterdir())
        return max((step for step in steps if step is not None), default=None)

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint, which may be damaged."""
        return self.last_step() is not None

    def start(self, experiment: TrainingExperiment) -> Changes | None:
        """Makes the folder; writes the config of a new run. Returns the result of `check`.

        The config of a run that goes on is replaced by `go_on`, when its checkpoint was accepted.
        """
        changes = self.check(experiment)
        self._make_folder()
        for place in (self.tensorboard_dir, self.image_dir):
            if not is_in_bucket(place) and os.path.lexists(place) and not os.path.isdir(place):
                _say(f"{place} is no folder; it is now {set_aside(place)}")
        try:
            # The config first: a folder with other files but no config is not a run.
            if changes is None:
                write_atomically(self.config_path, loader.to_yaml(experiment, of_run=True))
            self.image_dir.mkdir(exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        return changes

    def go_on(self, experiment: TrainingExperiment, step: int, changes: Mapping[str, Any]) -> None:
        """Replaces the config, and adds a line to changes.jsonl.

        Args:
            experiment: the config from this step on.
            step: the step.
            changes: a dict for JSON that says what changed.
        """
        line = {"step": step, **changes, "written_by": WRITTEN_BY}
        append_line(self.path / "changes.jsonl", json.dumps(line))
        write_atomically(self.config_path, loader.to_yaml(experiment, of_run=True))

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.path} cannot be written ({error.strerror}); give another workdir")

    def _holds_more_than_a_lock(self) -> bool:
        return any(path != self.lock_path or path.is_dir() for path in self.path.iterdir())

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
        remove(new)  # of a run that was killed
        save(new)
        failpoint("before_preset")
        # The old one is removed only when a whole preset is there: this order survives any kill.
        if (place / PRESET_CONFIG).exists():
            remove(old)
            os.replace(place, old)
            failpoint("between_presets")
        else:
            remove(place)
        os.replace(new, place)
        remove(old)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Prevents other processes from training in this folder.

        The lock ends with its process, see `locks`. In a bucket there is no lock.

        Raises:
            UserError: another process has the lock.
        """
        if is_in_bucket(self.path):
            yield
            return
        self._make_folder()
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.lock_path, _say))
            except Held as found:
                raise UserError(
                    f"{self.path} is being trained by {found.holder}; wait until it ends, or give "
                    "another workdir"
                ) from None
            except OSError as error:
                raise self._unwritable(error) from None
            yield

    def append_metrics(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Adds one line to metrics.jsonl."""
        self.metrics.append(step, kind, values)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Returns metrics.jsonl as a list of dicts, see `MetricsLog.read`."""
        return self.metrics.read()


def step_of(name: str) -> int | None:
    """Returns the step of a checkpoint's folder by its name; None for other names."""
    return int(name[5:]) if re.fullmatch("step_[0-9]{8,18}", name) else None


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def find_tokenizer_config(experiment: Experiment) -> ViTVQGANConfig | None:
    """Returns the config of the tokenizer run of a VIM or a decoder; None if there is none yet."""
    for _ in range(MOST_DECODERS):
        tokenizer = getattr(experiment, "tokenizer", None)
        if tokenizer is None or not tokenizer.run:
            return None
        config_path = Run(tokenizer.run).config_path
        if not config_path.exists():
            return None
        experiment = loader.load_config([config_path])
        if isinstance(experiment, ViTVQGANExperiment):
            return experiment.model
        if not isinstance(experiment, DecoderExperiment):
            raise UserError(
                f"tokenizer.run is {shorten(str(tokenizer.run))}, a run of experiment "
                f"{experiment.experiment}; give a run of experiment vit_vqgan or decoder"
            )
    raise UserError(
        f"tokenizer.run leads through {MOST_DECODERS} decoders to no tokenizer; name the run of "
        "experiment vit_vqgan"
    )


def find_run(path: StrPath) -> tuple[Run, str]:
    """Returns (a run, the name in `PRESETS` of its weights to use).

    Args:
        path: the folder of a run, or its `preset_best` or `preset`.

    Raises:
        UserError: the path is a preset without its run. Anything else is taken for a run.
    """
    folder = Path(os.path.abspath(path))
    if (folder / "config.yaml").exists():
        return Run(path), "preset"
    if folder.name in PRESETS and (folder.parent / "config.yaml").exists():
        given = Path(path)
        return Run(given.parent if given.name == folder.name else folder.parent), folder.name
    if (folder / PRESET_CONFIG).exists():
        raise UserError(
            f"{path} is a preset without its run; here the run's config.yaml is needed too: give "
            f"the folder of the run, or its {PRESETS[1]}"
        )
    return Run(path), "preset"


def find_preset(path: StrPath) -> Path | epath.Path:
    """Returns the preset folder of a run folder or of a preset folder, on a disk.

    A preset in a bucket is copied into a temporary folder, which is removed when the process ends.

    Raises:
        UserError: the path is neither of them, or the run has not saved a preset yet.
    """
    given = epath.Path(path)
    candidates = [given, given / "preset", given / "preset.old"]
    # Only the old one is there if a run was killed while it replaced the preset.
    if given.name in PRESETS:
        candidates.append(given.with_name(f"{given.name}.old"))
    for folder in candidates:
        if (folder / PRESET_CONFIG).exists():
            return _fetch_preset(folder) if is_in_bucket(folder) else folder
    if (given / "config.yaml").exists():
        raise UserError(f"{given} has saved no preset yet; wait until its training saves one")
    if given.name in PRESETS and (given.parent / "config.yaml").exists():
        raise UserError(
            f"{given.parent} has saved no {given.name} yet; wait until its training evaluates"
        )
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
