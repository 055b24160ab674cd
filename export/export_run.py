"""One export from its run to its version: every format made, measured, reported, put in place."""

import platform

import keras
import tensorflow as tf

import vim_tf
from vim_tf.export import report
from vim_tf.export.browser import tfjs
from vim_tf.export.litert import tflite, tflite_generator
from vim_tf.export.serving import saved_model, serving_kit, warmup
from vim_tf.generation.litert import load_litert


def check_tools(formats, node_modules):
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


def export(run, signatures, release, formats, node_modules, say):
    """Exports a run into a `Release` and publishes it if every limit holds.

    Args:
        run: a `TrainedRun`.
        signatures: its `Signatures`.
        release: a `Release`; published, or left as it is if a limit fails.
        formats: as of `check_tools`.
        node_modules: as of `check_tools`.
        say: called with lines for people.

    Returns:
        A line for each limit that does not hold; [] if everything was published.
    """
    measurements = []
    for name in formats:
        say(f"{name}: exporting and comparing with Keras")
        folder = release.staged(name)
        folder.mkdir()
        if name == "saved_model":
            saved_model.write_saved_model(signatures, run, folder)
            warmup.write_warmup(folder, run)
            measurements += saved_model.measure(folder, signatures, run)
        elif name == "tflite":
            measurements += tflite.export_tflite(run, folder)
            if run.vim:
                measurements += tflite_generator.export_generator(run, folder)
        else:
            measurements += tfjs.export_tfjs(run, folder, node_modules)
    say(report.table(measurements))
    report.write_report(release.report_dir, _about(run, release, formats), measurements)
    failures = [line for row in measurements for line in row.failures]
    if not failures:
        release.publish()
        if "saved_model" in formats:
            serving_kit.write_kit(release.out)
    return failures


def _about(run, release, formats):
    return {
        "run": str(run.path),
        "version": release.version,
        "formats": formats,
        "weights": run.hashes(),
        "steps": dict(zip(("done", "of"), run.steps, strict=True)),
        "machine": f"{platform.machine()}, {platform.system()}",
        "vim_tf": vim_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
