"""Opens damaged and hostile files for as long as you like: `make fuzz MINUTES=60`.

    python tests/fuzz.py --minutes 60 --seed 0 [--only 'preset;graph']

Each case changes one file of a tiny run, export or network, and opens it as a command would. Within
60 seconds it must end in a UserError of one line, or in an answer. If the file is damaged, this
must be the answer of the unchanged file. If a stranger made the file with valid checksums, any
answer is allowed. Everything else is a failure: another exception, a dead process, a new file.

The cases run in a separate process. If it dies or hangs, a new process continues after that case.
"""

import argparse
import collections
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

SECONDS = 60  # allowed time per case
LONGEST = 2_000  # allowed characters of a message


class Wrong(Exception):
    """A case failed."""


# The process that opens files --------------------------------------------------------------------


def try_case(name, make, rng, expected):
    """Runs one case; raises Wrong if it fails."""
    import numpy as np

    from vim_tf.command_line import _as_user_error
    from vim_tf.errors import UserError

    path, data, open_it, unchanged = make(rng)
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        found = open_it()
    except UserError as error:
        text = str(error)
        if "\n" in text or len(text) > LONGEST:
            raise Wrong(f"a message of {len(text)} characters: {text[:500]!r}") from None
        return "refused"
    except Exception as error:
        if _as_user_error(error) is not None:
            return "refused"
        raise Wrong("".join(traceback.format_exception(error)[-12:])) from None
    finally:
        path.write_bytes(whole)
    if not unchanged or found is None:
        return "opened"
    for a, b in zip(found, expected[open_it.__name__], strict=True):
        if not np.array_equal(a, b):
            raise Wrong("another answer, and not a word")
    return "the same"


def child(world, seed, start, only):
    """Runs cases from `start` on, and prints a line before and after each."""
    import fuzz_mutations as mutations
    from fuzz_targets import targets

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    made, unchanged = targets(world)
    names = [name for name in made if not only or any(word in name for word in only)]
    expected = {open_it.__name__: open_it() for open_it in unchanged}
    here = sorted(os.listdir("."))
    case = start
    while True:
        name = names[case % len(names)]
        print(f"case {case} {name}", flush=True)
        originals = {}
        if "weights, resealed" in name:
            for path in (world / "vit_vqgan" / "preset").iterdir():
                originals[path] = path.read_bytes()
        try:
            done = try_case(name, made[name], mutations.seeded(seed, case), expected)
        except Wrong as wrong:
            done = f"WRONG {wrong}".replace("\n", "\\n")
        for path, data in originals.items():
            path.write_bytes(data)
        if sorted(os.listdir(".")) != here:
            done = f"WRONG new files: {set(os.listdir('.')) - set(here)}"
            here = sorted(os.listdir("."))
        print(f"done {done}", flush=True)
        case += 1


# The process that watches ------------------------------------------------------------------------


def make_world(folder):
    """Makes tiny runs of both stages with all their files, networks and configs."""
    import conftest
    import keras
    import numpy as np
    import tensorflow as tf

    from vim_tf import formats, train
    from vim_tf.export.litert.tflite_generator import write_files
    from vim_tf.generation.image_generator import ImageGenerator
    from vim_tf.runs.checkpoints import Checkpoints

    images = conftest.write_tiny_images(folder / "images")
    stages = {"vit_vqgan": conftest.TINY_VIT_VQGAN, "vim": conftest.TINY_VIM}
    for stage, text in stages.items():
        config = folder / "config.yaml"
        data = conftest.TINY_DATA.format(images=images)
        config.write_text(text + data + conftest.TINY_TRAINING)
        more = f"tokenizer.run={folder}/vit_vqgan" if stage == "vim" else "losses.adversarial=0"
        given = ["--config", str(config), "--workdir", str(folder / stage), "--set", more]
        train.main(given)
    text = "experiment: classifier\n" + conftest.TINY_DATA.format(images=images)
    (folder / "folder.yaml").write_text(text)
    generator = ImageGenerator.load(folder / "vim")
    (folder / "tflite").mkdir()
    write_files(generator.vim, generator.class_names, folder / "tflite")
    for step in (1, 2):
        Checkpoints({"a": tf.Variable(7 * step)}, folder / "checkpoints", 3).save(step)
    write_networks(folder, keras, np, formats)


def write_networks(folder, keras, np, formats):
    """Writes a small graph with Inception's names, a Keras classifier, statistics and images."""
    import importlib.util

    path = Path(__file__).parent / "evaluation" / "conftest.py"
    spec = importlib.util.spec_from_file_location("evaluation_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make_frozen_graph(folder / "net.pb")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(4, 3, 2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )
    model.save(folder / "net.keras")
    rng = np.random.default_rng(0)
    np.savez(folder / "images.npz", arr_0=rng.integers(0, 256, (6, 16, 16, 3), dtype="uint8"))
    from vim_tf.evaluation.features import open_extractor

    dim = open_extractor(folder / "net.pb").dim
    matrix = rng.standard_normal((dim, dim))
    np.savez(folder / "statistics.npz", mu=np.zeros(dim), sigma=matrix @ matrix.T)


def watch(world, seed, minutes, only, say):
    """Runs cases for some minutes; returns (counts by target and outcome, failures)."""
    counts, failures = collections.Counter(), []
    end, case = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as copy:
            # A copy, because a process that dies leaves a changed file.
            shutil.copytree(world, copy, dirs_exist_ok=True)
            for path in Path(copy).rglob("*.yaml"):
                path.write_text(path.read_text().replace(str(world), copy))
            process = subprocess.Popen(
                [sys.executable, __file__, "--child", copy, "--seed", str(seed)]
                + ["--start", str(case), *(["--only", ";".join(only)] if only else [])],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=empty,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            )
            name, last = "the start", time.monotonic()
            buffer, patience = b"", 10 * SECONDS
            errors = b""
            while time.monotonic() < end:
                streams = [process.stdout, process.stderr]
                ready, _, _ = select.select(streams, [], [], 1)
                for stream in ready:
                    part = os.read(stream.fileno(), 2**16)
                    if stream is process.stderr:
                        errors = (errors + part)[-3000:]
                        continue
                    buffer += part
                *lines, buffer = buffer.split(b"\n")
                for line in map(bytes.decode, lines):
                    last, patience = time.monotonic(), SECONDS
                    if line.startswith("case "):
                        _, number, name = line.split(" ", 2)
                        case = int(number)
                    elif line.startswith("done "):
                        outcome = line[5:]
                        if outcome.startswith("WRONG"):
                            failures.append((case, name, outcome))
                            say(f"case {case}, {name}: {outcome}")
                            outcome = "WRONG"
                        counts[name, outcome] += 1
                if process.poll() is not None:
                    failures.append((case, name, f"the process died: {process.returncode}"))
                    say(f"case {case}, {name}: the process died: {process.returncode} {errors!r}")
                    break
                if time.monotonic() - last > patience:
                    failures.append((case, name, f"no answer within {patience} s"))
                    say(f"case {case}, {name}: no answer within {patience} s")
                    break
            process.kill()
            process.communicate()
            case += 1
    return counts, failures


def main():
    """The command line; exit code 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="words of targets, separated by semicolons")
    parser.add_argument("--world", help="a folder to make everything in, or to use again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    only = [word for word in arguments.only.split(";") if word]
    if arguments.child:
        child(Path(arguments.child), arguments.seed, arguments.start, only)
        return
    folder = Path(arguments.world or tempfile.mkdtemp(prefix="vim_tf_fuzz_"))
    if not (folder / "statistics.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_world(folder)
    counts, failures = watch(folder, arguments.seed, arguments.minutes, only, print)
    for name in sorted({name for name, _ in counts}):
        found = {outcome: n for (target, outcome), n in counts.items() if target == name}
        print(f"{name}: " + ", ".join(f"{n} {outcome}" for outcome, n in sorted(found.items())))
    print(f"{sum(counts.values())} cases, {len(failures)} failures")
    if not arguments.world:
        shutil.rmtree(folder)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
