"""The kinds that need no TensorFlow: configs, documents, archives, run folders and messages."""

import functools

import fuzz_mutations as mutations
from fuzz_command_lines import COMMANDS
from fuzz_kinds import Kind, Wrong, archived, damaged, in_text, read_once
from fuzz_trees import change_tree, drawer

# Configs --------------------------------------------------------------------------------------

# Aliases of aliases: 9 to the power of 10 values in all.
ALIASES = ", ".join(
    f"&{name} [{', '.join(['x' if name == 'a' else '*' + before] * 9)}]"
    for before, name in zip("_abcdefghi", "abcdefghij", strict=True)
)
LINES = (
    *("experiment: vim", "experiment: vit_vqgan", "data: {source: folder, path: x}", "seed: 1"),
    *(
        "model: &a {b: 1}",
        "data: *a",
        "<<: *a",
        "seed: !!bool 1",
        "seed: !!python/name:os.system x",
    ),
    *("seed: !!timestamp 2001-01-01", "---", "...", "%YAML 9.9", "? [a, b]\n: c", "{", "- 1"),
    *("seed: 0x10", "seed: 1e400", "seed: .nan", "seed: 1_000", 'seed: "\\UFFFFFFFF"', "\t", "﻿"),
    *(
        "model: {transformer: base}",
        "data: {image_size: [1, 2]}",
        "seed: ~",
        "seed: |\n  a",
        "\x85",
    ),
    *("optimizer: {learning_rate: -1}", "training: {steps: 1e3}", "seed: '", "model: null", "\0"),
    f"seed: [{ALIASES}]",
)
VALUES = (
    *(
        "1",
        "0",
        "-1",
        "true",
        "null",
        "1e-3",
        "1e309",
        ".inf",
        ".nan",
        "[]",
        "[1]",
        "[8, 16]",
        "{}",
    ),
    *("x", "''", "'a b'", "10000000000000", "9" * 400, "9" * 5000, "[" * 30, "é\\n", "*a", "&a 1"),
    *(
        "base",
        "folder",
        "mirrored",
        "bfloat16",
        "0.5",
        "2",
        "16",
        "65536",
        "\x1b[31m",
        "a" * 20_000,
    ),
)


@functools.cache
def keys():
    """Dotted keys of all experiments, and some that do not exist."""
    from vim_tf.config import loader
    from vim_tf.config.experiments import EXPERIMENTS

    found = {key for cls in EXPERIMENTS.values() for key in loader._flatten(cls())}
    sections = {key.rpartition(".")[0] for key in found if "." in key}
    return sorted(found | sections) + ["experiment", "format", "modle", "model.", ".", "__class__"]


def draw_text(world, rng):
    """The text of a config: lines, with some bytes changed."""
    if rng.randrange(2):
        name = rng.choice(["vim.yaml", "vit_vqgan.yaml", "vim/config.yaml", "data_idx.yaml"])
        text = read_once(world / name).decode().replace(str(world), "w")
    else:
        lines = [rng.choice(LINES) for _ in range(1 + rng.randrange(5))]
        text = "\n".join(lines)
    if rng.randrange(3) == 2:
        text = text.replace(
            "\n", "\n" + rng.choice([" ", "  ", "- ", "? ", "a: "]) * rng.choice([1, 50])
        )
    edits = mutations.draw_edits(in_text(text), rng) if rng.randrange(2) else []
    return [text, edits]


def change_text(live, case):
    text, edits = case
    live.write("vim.yaml", mutations.apply_edits(in_text(text), edits))


def open_config(live, case):
    """Loads the config; it must load again from the text that vim_tf writes of it."""
    from vim_tf.config import loader

    found = loader.load_config([live / "vim.yaml"])
    written = live / "written.yaml"
    try:
        written.write_text(loader.to_yaml(found))
        again = loader.load_config([written])
    finally:
        written.unlink(missing_ok=True)
    if loader.to_yaml(again) != loader.to_yaml(found):
        raise Wrong("a config that is another after it was written", loader.to_yaml(found))


def draw_values(world, rng):
    """Keys and values of a config, as YAML text of each value."""
    known = keys()
    pairs = [[rng.choice(known), rng.choice(VALUES)] for _ in range(1 + rng.randrange(4))]
    return [rng.choice(["vim", "vit_vqgan", "classifier", "linear_probe"]), pairs]


def change_values(live, case):
    """Writes the keys as nested sections, without quotes."""
    name, pairs = case
    lines = [f"experiment: {name}"]
    for key, value in pairs:
        parts = key.split(".")
        lines += ["  " * depth + f"{part}:" for depth, part in enumerate(parts[:-1])]
        lines.append("  " * (len(parts) - 1) + f"{parts[-1]}: {value}")
    live.write("vim.yaml", in_text("\n".join(lines)))


def draw_overrides(world, rng):
    """Overrides as `--set` gets them."""
    known = keys()
    words = []
    for _ in range(1 + rng.randrange(3)):
        key, value = rng.choice(known), rng.choice([*VALUES, *LINES])
        words.append(
            rng.choice([f"{key}={value}", f"{key}={value}", key, f"={value}", f" {key} =1"])
        )
    return words


def open_overrides(live, case):
    from vim_tf.config import loader

    loader.load_config([live / "vim.yaml"], case)


def open_run_config(live, case):
    from vim_tf.runs.run import Run

    Run(live / "vim").load_experiment()


# Documents and archives -----------------------------------------------------------------------

DEEP = ("[", '{"a":', "[[1],", '"', "9", " ", "\\u0000")


def draw_document(world, rng):
    """The text of a JSON document: damage, or deep nesting and long numbers."""
    data = (world / "vim/preset/config.json").read_bytes()
    if rng.randrange(2):
        return ["edits", mutations.draw_edits(data, rng)]
    return ["text", rng.choice(DEEP), rng.choice([1, 2, 100, 5000, 200_000])]


def change_document(live, case):
    data = live.read("vim/preset/config.json")
    if case[0] == "edits":
        data = mutations.apply_edits(data, case[1])
    else:
        data = b'{"format": ' + (case[1] * case[2]).encode()
    live.write("vim/preset/config.json", data)


def open_document(live, case):
    from vim_tf.models import preset

    preset.read_config(live / "vim" / "preset")


def open_weights(live, case):
    from vim_tf.models.weights_files import count_elements

    count_elements(live / "vim" / "preset" / "model.weights.h5")


def open_table(live, case):
    from vim_tf import fingerprints

    kept, found = (fingerprints.load(folder / "vim") for folder in (live.with_name("kept"), live))
    for key in kept.keys() & found.keys():
        kept[key].recall(found[key])


def open_npz(live, case):
    from vim_tf.npz_files import open_npz

    with open_npz(live / "statistics.npz", "--b x.npz", "an .npz is needed") as file:
        for name in sorted(file.names):
            if file.header(name)[1].kind != "U":
                file.read(name)
        file.read_text("extractor"), file.read_integer("format")


# Run folders ----------------------------------------------------------------------------------


def open_metrics(live, case):
    """Reads the numbers of a run as the curves do, after one more line."""
    from vim_tf.runs.run import Run

    run = Run(live / "vim")
    run.append_metrics(9, "train", {"loss": 0.5})
    records = run.read_metrics()
    {(record["kind"], name) for record in records for name in record}
    if not any(record["step"] == 9 for record in records):
        raise Wrong("a line that was added is not read again")


def open_folder(live, case):
    """What commands ask of a run folder before TensorFlow is imported, and what a training does."""
    from vim_tf.config import loader
    from vim_tf.runs.run import Run, find_preset

    run = Run(live / "vim")
    experiment = loader.load_config([live / "vim.yaml"])
    asked = (
        lambda: run.check(experiment),
        run.load_experiment,
        lambda: find_preset(run.path),
        run.read_metrics,
        lambda: _train(run, live, case),
    )
    for ask in asked:
        refused(ask)


def _train(run, live, case):
    """Locks the folder, and does what needs the lock."""
    from vim_tf.config import loader

    with run.lock():
        run.metrics.resume(3, evaluates=True)
        run.start(loader.load_config([run.config_path], of_run=True))
        open_metrics(live, case)
        run.save_preset(lambda folder: folder.mkdir())


def refused(ask):
    """Calls a function; a refusal in one line is fine."""
    from fuzz_kinds import check_message, place_of

    from vim_tf.command_line import _as_user_error
    from vim_tf.errors import UserError

    try:
        ask()
    except UserError as error:
        check_message(str(error), place_of(error))
    except OSError as error:
        if _as_user_error(error) is None:
            raise


# Messages -------------------------------------------------------------------------------------

TEXTS = (
    "a",
    "\n",
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "é",
    "猫",
    "\0",
    "x" * 3000,
    "<stack\n",
    "'",
    "\\",
)


def draw_message(world, rng):
    return "".join(rng.choice(TEXTS) for _ in range(rng.randrange(8)))


def open_message(live, case):
    from vim_tf import messages

    for text in (
        messages.shorten(case),
        messages.show({case: [case]}),
        messages.reason_of(ValueError(case)),
        messages.shorten(case, messages.LONGEST_MESSAGE),
    ):
        if not text.isprintable() or len(text) > messages.LONGEST_MESSAGE + 100:
            raise Wrong("a shown text with control codes, or too long", repr(text))
        text.encode()


RUN = {"writes": ("vim",)}
PLAIN = [
    Kind("text of a config", draw_text, change_text, open_config),
    Kind("values of a config", draw_values, change_values, open_config),
    Kind("overrides", draw_overrides, lambda live, case: None, open_overrides),
    damaged("config", "vit_vqgan.yaml", lambda live, case: open_at(live, "vit_vqgan.yaml")),
    damaged("run config", "vim/config.yaml", open_run_config),
    Kind("JSON document", draw_document, change_document, open_document),
    damaged("weights file", "vim/preset/model.weights.h5", open_weights),
    damaged("table of files", "vim/images.npz", open_table),
    archived("table of files, packed again", "vim/images.npz", open_table),
    damaged("npz", "statistics.npz", open_npz),
    archived("npz, packed again", "statistics.npz", open_npz),
    damaged("metrics.jsonl", "vim/metrics.jsonl", open_metrics, **RUN),
    Kind("run folder, before TensorFlow", drawer(("vim",)), change_tree, open_folder, **RUN),
    Kind("messages", draw_message, lambda live, case: None, open_message),
    *COMMANDS,
]


def open_at(live, name):
    from vim_tf.config import loader

    loader.load_config([live / name])
