"""One export from its run to its version: every format made, measured, reported, put in place."""

import hashlib
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

import vim_tf
from vim_tf.annotations import StrPath
from vim_tf.config import checks
from vim_tf.config.loader import to_yaml
from vim_tf.data import image_limits
from vim_tf.data.progress import progress_bar
from vim_tf.errors import UserError
from vim_tf.export import report
from vim_tf.export.browser import tfjs
from vim_tf.export.litert import tflite, tflite_generator
from vim_tf.export.release import FOLDERS, Release, check_target
from vim_tf.export.serving import saved_model, serving_kit, warmup
from vim_tf.export.serving.signatures import Signatures
from vim_tf.failpoints import failpoint
from vim_tf.files import remove
from vim_tf.generation.litert import load_litert
from vim_tf.runs.trained_run import COMPARED, TrainedRun, open_run
from vim_tf.stopping import Stop
from vim_tf.versions import installed_versions


class NotEqualError(Exception):
    """An export that is not what Keras computes; nothing was published.

    Attributes:
        failures: a line for each limit that does not hold.
        report_dir: folder of the report.
    """

    def __init__(self, failures: Sequence[str], report_dir: Path) -> None:
        super().__init__("; ".join(failures))
        self.failures, self.report_dir = failures, report_dir


@dataclass(frozen=True)
class ExportResult:
    """What was exported; prints as lines.

    Attributes:
        version: its number.
        folders: {format: folder}.
        report_dir: folder of the report of what was measured.
    """

    version: int
    folders: dict[str, Path]
    report_dir: Path

    def __str__(self):
        lines = [f"{name}: {folder}" for name, folder in self.folders.items()]
        return "\n".join([*lines, f"report: {self.report_dir}"])


def export_model(
    run: StrPath,
    out: StrPath,
    *,
    decoder: StrPath | None = None,
    formats: Sequence[str] = ("saved_model",),
    embed_block: int | None = None,
    max_pixels: int | None = None,
    node_modules: StrPath = "node_modules",
    overrides: Sequence[str] = (),
) -> ExportResult:
    """Exports a run; each format is compared with Keras on real images before it is published.

    Args:
        run: folder of a run of either stage, or its `preset_best`.
        out: a new folder, or one of exports; each export gets a new version in it.
        decoder: folder of a run of experiment decoder for the same tokens as a VIM's, whose decoder
            is exported; None exports the VIM's own.
        formats: some of "saved_model", "tflite" and "tfjs".
        embed_block: block of VIM that `embed` takes, from 0; None takes the one that the linear
            probe chose, or 5/12 of all.
        max_pixels: encoded images of more pixels are refused, at most 100 million; None is 64 times
            those of the model's images, at least 33.6 million and at most 100 million.
        node_modules: folder in which npm installed @tensorflow/tfjs, for "tfjs".
        overrides: "data.key=value" strings, for images that have moved since the training.

    Returns:
        An `ExportResult`.

    Raises:
        UserError: a value out of range, or a mistake in the run or the folder.
        NotEqualError: an export is not what Keras computes.
    """
    formats = checks.choose("formats", formats, list(FOLDERS))
    checks.at_least_one(max_pixels=max_pixels)
    if max_pixels is not None and max_pixels > image_limits.MOST:
        raise UserError(f"max_pixels is {max_pixels}; it must be at most {image_limits.MOST:,}")
    check_target(out)
    check_tools(formats, Path(node_modules))
    opened = open_run(run, overrides, decoder=decoder)
    if embed_block is None:
        embed_block = opened.probed_block or None  # 0 is no block, but the embeddings
        if embed_block:
            _say(f"embed takes block {embed_block}, which the linear probe chose")
    signatures = Signatures(opened.tokenizer, opened.vim, embed_block, max_pixels)
    done, asked = opened.steps
    if opened.weights != "preset":
        _say(f"the weights are those of {opened.weights}, of step {done}")
    elif done < asked:
        _say(f"{opened.path} is not fully trained: its weights are those of step {done} of {asked}")
    if not opened.vim:
        _say(f"{opened.path} is a run of stage 1: only the tokenizer's signatures are exported")
    # Reads images, so what is wrong with the data is said before anything is written.
    made_from = _made_from(opened, signatures, formats)
    release = Release(out, _say, made_from)
    try:
        failures = export(opened, signatures, release, formats, Path(node_modules), _say)
    except (Stop, KeyboardInterrupt):
        release.suspend()
        raise
    except BaseException:
        release.discard()
        raise
    if failures:
        release.discard()
        raise NotEqualError(failures, release.report_dir)
    folders = {name: release.published(name) for name in formats}
    return ExportResult(release.version, folders, release.report_dir)


def _say(line):
    sys.stderr.write(f"{line}\n")


def check_tools(formats: Sequence[str], node_modules: StrPath) -> None:
    """Raises UserError if a converter is missing, before anything is loaded or written.

    Args:
        formats: list of "saved_model", "tflite" and "tfjs".
        node_modules: folder in which npm installed @tensorflow/tfjs.
    """
    if "saved_model" in formats:
        warmup.check_tools()
    if "tflite" in formats:
        load_litert()
    if "tfjs" in formats:
        tfjs.check_tools(node_modules)


def export(
    run: TrainedRun,
    signatures: Signatures,
    release: Release,
    formats: Sequence[str],
    node_modules: StrPath,
    say: Callable[[str], object],
) -> list[str]:
    """Exports a run into a `Release` and publishes it if every limit holds.

    Args:
        run: a `TrainedRun`.
        signatures: its `Signatures`.
        release: a `Release`; published, or left as it is if a limit fails.
        formats: as in `check_tools`.
        node_modules: as in `check_tools`.
        say: called with lines for people.

    Returns:
        A line for each limit that does not hold; [] if everything was published.
    """
    measurements = []
    with progress_bar(len(formats), "formats", "export") as bar:
        for name in formats:
            rows = release.finished(name)
            if rows is None:
                say(f"{name}: exporting and comparing with Keras")
                failpoint("before_format")
                folder = release.staged(name)
                remove(folder)  # a part of it, from before a stop
                folder.mkdir()
                found = _export_format(name, run, signatures, folder, node_modules)
                if not any(measurement.failures for measurement in found):
                    release.finish(name, [report.to_row(measurement) for measurement in found])
            else:
                found = [report.from_row(row) for row in rows]
            measurements += found
            bar.update(1)
    say(report.table(measurements))
    report.write_report(release.report_dir, _about(run, release, formats), measurements)
    failures = [line for row in measurements for line in row.failures]
    if not failures:
        release.publish()
        if "saved_model" in formats:
            serving_kit.write_kit(release.out)
    return failures


def _export_format(name, run, signatures, folder, node_modules):
    """Writes the files of one format into an empty folder; returns what was measured."""
    if name == "saved_model":
        saved_model.write_saved_model(signatures, run, folder)
        warmup.write_warmup(folder, run)
        return saved_model.measure(folder, signatures, run)
    if name == "tfjs":
        return tfjs.export_tfjs(run, folder, node_modules)
    measurements = tflite.export_tflite(run, folder)
    if run.vim:
        measurements += tflite_generator.export_generator(run, folder)
    return measurements


def _made_from(run, signatures, formats):
    """Returns all that the files of an export depend on."""
    return {
        "weights": run.hashes(),
        "steps": run.steps,
        "config": to_yaml(run.experiment),
        "class_names": run.class_names,
        "images": hashlib.sha256(run.images(COMPARED).tobytes()).hexdigest(),
        "embed_block": signatures.block if run.vim else None,
        "max_pixels": signatures.max_pixels,
        "formats": formats,
        "versions": installed_versions(),
    }


def _about(run, release, formats):
    return {
        "run": str(run.path),
        "preset": run.weights,
        "version": release.version,
        "formats": formats,
        "weights": run.hashes(),
        "steps": dict(zip(("done", "of"), run.steps, strict=True)),
        "machine": f"{platform.machine()}, {platform.system()}",
        "vim_tf": vim_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
