"""All kinds of cases of `fuzz.py`; here those that need TensorFlow: what opens, what is changed."""

import contextlib
import dataclasses
import functools
import json
from unittest import mock

import fuzz_mutations as mutations
from fuzz_hostile import HOSTILE
from fuzz_kinds import EQUAL, Wrong, archived, damaged, read_document, resealed
from fuzz_plain_targets import PLAIN
from fuzz_trees import TREES

# What opens them ------------------------------------------------------------------------------


def answer(*arrays):
    """A list of NumPy arrays."""
    import numpy as np

    return [np.asarray(array) for array in arrays]


def text_of(*values):
    """Values from JSON as one text."""
    return json.dumps(values, sort_keys=True)


def tokens():
    """Some tokens, [2,16] int32."""
    import numpy as np

    return np.arange(32, dtype="int32").reshape(2, 16) % 16


def labels():
    """Their labels, [2] int32."""
    return tokens()[:, 1] % 2


def pixels():
    """Images for networks, [2,16,16,3] uint8."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype="uint8")


def open_tokenizer(live, case=None):
    import vim_tf

    return answer(vim_tf.load(live / "vit_vqgan").decode_tokens(tokens()))


def open_generator(live, case=None):
    from vim_tf.generation.image_generator import ImageGenerator

    found = ImageGenerator.load(live / "vim")
    decoded = found.tokenizer.decode_tokens(tokens())
    said = text_of(found.vim.metadata, found.tokenizer.metadata, found.class_names)
    return answer(found.vim(tokens(), labels()), decoded, said)


@functools.cache
def unchanged_run(live):
    """The unchanged run, its images, and the hash of its tokenizer."""
    import vim_tf
    from vim_tf.runs.trained_run import open_run

    run = open_run(live / "vim")
    return run, run.data, vim_tf.load(live / "vit_vqgan").token_hash()


def open_cache(live, case=None):
    from vim_tf.data.token_cache import TokenCache

    _, data, token_hash = unchanged_run(live)
    cache = TokenCache.open(live / "vim" / "tokens", token_hash, data=data)
    said = text_of(cache.header)
    return answer(cache.tokens["train"], cache.labels["train"], cache.tokens["validation"], said)


def open_made_from(live, case=None):
    """Opens a run and compares its images with those of its training; they are not read again."""
    from vim_tf.runs import trained_run

    return compare_images(live, trained_run.open_run(live / "vim"))


def open_file_table(live, case=None):
    """As `open_made_from`, of a run whose models are open."""
    return compare_images(live, dataclasses.replace(unchanged_run(live)[0]))


def compare_images(live, run):
    from vim_tf.runs import trained_run

    data = unchanged_run(live)[1]
    with mock.patch.object(trained_run, "make_image_dataset", lambda *arguments: data):
        return answer(run.data.train_size)


def open_images(live, case=None):
    from vim_tf.runs.trained_run import open_run

    return answer(open_run(live / "vim").images(4))


def open_changed_images(live, case=None):
    """Opens a run and its files of images; "image of a folder" decodes them."""
    import numpy as np

    from vim_tf.data.sources import folder
    from vim_tf.runs.trained_run import open_run

    def decode_nothing(images, *arguments):
        count = len(images.names)
        return [np.ones([1, 1, 3], np.uint8)] * count, [""] * count

    with mock.patch.object(folder, "_decode_all", decode_nothing):
        return answer(open_run(live / "vim").data.train_size)


def open_everything(live, case=None):
    """Answers of all that a run has; images are read only if its config was changed."""
    found = [*open_generator(live), *open_made_from(live), *open_cache(live)]
    if case is None or case[0] == "vim/config.yaml":
        found += open_images(live)
    return found


def open_checkpoint(live, case=None):
    import tensorflow as tf

    from vim_tf.runs.checkpoints import Checkpoints

    variable = tf.Variable(0)
    step = Checkpoints({"a": variable}, live / "checkpoints", 3, say=lambda line: None).restore()
    if step in (None, 1):  # the checkpoint before, or none
        return None
    return answer(step, variable.numpy())


def open_best(live, case=None):
    """Reads the best evaluation, as each evaluation and each save does."""
    import tensorflow as tf

    from vim_tf.runs.checkpoints import Checkpoints

    folder = live / "checkpoints"
    saved = Checkpoints({"a": tf.Variable(0)}, folder, 1, say=lambda line: None)
    best = saved.best()
    if best is not None and best[1] < 1:
        saved.mark_best(best[0], best[1] + 1)
    saved.save(3)
    return None if best is None else answer(*best)  # None: it counts as missing


def open_probed_block(live, case=None):
    run = dataclasses.replace(unchanged_run(live)[0])
    return None if run.probed_block is None else answer(run.probed_block)


def open_litert(live, case=None):
    from vim_tf.generation.litert_vim import LiteVIM

    found = LiteVIM(live / "tflite" / "generator_float32.tflite")
    said = text_of(found.grid, found.codes, found.classes, found.weights)
    return answer(found.generate(labels()), said)


def open_net(live, case=None):
    from vim_tf.evaluation.features import open_extractor

    return answer(open_extractor(live / "net.pb")(pixels()).pooled)


@functools.cache
def net_hash(live):
    from vim_tf.files import hash_file

    return hash_file(live.with_name("kept") / "net.pb")


def open_hashed_net(live, case=None):
    from vim_tf.errors import UserError
    from vim_tf.evaluation.features import open_extractor

    try:
        found = open_extractor(live / "net.pb", expected_hash=net_hash(live))
    except UserError as error:
        if "SHA-256" not in str(error):
            raise Wrong("parsed before its hash was compared", str(error)) from None
        raise
    return answer(found(pixels()).pooled)


def open_keras(live, case=None):
    from vim_tf.evaluation.features import open_extractor

    return answer(open_extractor(live / "net.keras")(pixels()).pooled)


@functools.cache
def extractor(live):
    """The unchanged graph."""
    from vim_tf.evaluation.features import open_extractor

    return open_extractor(live / "net.pb")


def open_statistics(live, case=None):
    from vim_tf.evaluation.reference import open_reference

    found = open_reference(live / "statistics.npz", "--b", extractor(live))
    return answer(found.statistics.pooled.mean) if found.statistics is not None else None


def open_npz(live, case=None):
    from vim_tf.evaluation.reference import open_reference

    found = open_reference(live / "images.npz", "--b", extractor(live))
    return answer(*found.images.batches(4)) if found.images is not None else None


def open_lpips(live, case=None):
    import numpy as np

    from vim_tf.evaluation import lpips

    small = {name: shape for name, shape in lpips._shapes().items() if np.prod(shape) < 3000}
    with mock.patch.object(lpips, "_shapes", lambda: small):
        lpips._read_tensors((live / "lpips.safetensors").read_bytes(), "--lpips")


def open_folder(live, case=None):
    from vim_tf.config.loader import load_config
    from vim_tf.data.images import make_image_dataset

    section = load_config([live / "data_folder.yaml"], ["data.image_size=16"]).data
    data = make_image_dataset(section, 0)
    return answer(*(batch["image"] for batch in data.evaluation("train")))


def open_idx(live, case=None):
    from vim_tf.config.loader import load_config
    from vim_tf.data.sources import idx

    idx.make_splits(load_config([live / "data_idx.yaml"]).data)


def open_records(live, case=None):
    """Reads every record of a TFRecord file, and decodes its image outside of a graph."""
    import tensorflow as tf

    from vim_tf.config.loader import load_config
    from vim_tf.data.images import as_user_error
    from vim_tf.data.sources import tfrecord

    _, train, *_ = tfrecord.make_splits(load_config([live / "data_tfrecord.yaml"]).data)
    try:
        for _, reference in train.in_order():
            # Its caller names the image. TensorFlow's message may quote bytes that are no text.
            with contextlib.suppress(tf.errors.InvalidArgumentError, UnicodeDecodeError):
                train.load(reference)
    except Exception as error:
        mistake = as_user_error(error)
        if mistake is None:
            raise
        raise mistake from None


# What is changed ------------------------------------------------------------------------------


def swapped_weights():
    """Weights of a stranger: the file is damaged, and the config has the hash of this file."""
    weights, config = "vit_vqgan/preset/model.weights.h5", "vit_vqgan/preset/config.json"
    kind = damaged("tokenizer weights, resealed", weights, open_tokenizer, **SAME)

    def change(live, edits):
        from vim_tf import formats
        from vim_tf.files import measure_file

        kind.change(live, edits)
        content = formats.read_json(live.kept / config, "preset", "")
        size, sha256 = measure_file(live.folder / weights)
        content["weights"] = {"bytes": size, "sha256": sha256}
        live.write(config, formats.to_json("preset", content).encode())

    return kind._replace(change=change)


def architecture():
    """Changed numbers and switches of a model's config: most would load, and answer otherwise."""
    path = TOKENIZER + "config.json"
    kind = resealed("architecture of a preset", path, "preset", open_tokenizer, **SAME)

    def leaves(node, place):
        if isinstance(node, dict):
            return [leaf for key in sorted(node) for leaf in leaves(node[key], [*place, key])]
        return [(place, node)] if isinstance(node, int | float) else []

    def draw(world, rng):
        found = leaves(read_document(world / path, "preset")["config"], [])
        changes = []
        for place, value in rng.sample(found, rng.randint(1, 3)):
            nearby = [value * 2, value // 2, value + 1, value - 1, rng.randint(1, 64)]
            new = not value if isinstance(value, bool) else rng.choice(nearby)
            changes.append([["config", *place], "set", new])
        return changes

    return kind._replace(draw=draw)


def any_file():
    """One flipped bit of any file of a run, with its preset and token cache."""

    @functools.cache
    def files(world):
        left = {"checkpoints", "lock", "metrics.jsonl"}  # which only a training reads
        found = [path for path in (world / "vim").rglob("*") if not left & {*path.parts}]
        found = [path for path in found if path.is_file() and path.stat().st_size]
        return sorted(path.relative_to(world).as_posix() for path in found)

    def draw(world, rng):
        name = rng.choice(files(world))
        return [name, [["flip", rng.randrange((world / name).stat().st_size), rng.randrange(8)]]]

    def change(live, case):
        name, edits = case
        live.write(name, mutations.apply_edits(live.read(name), edits))

    return damaged("any bit of a run", "", open_everything, **SAME)._replace(
        draw=draw, change=change
    )


STATE = {"writes": ("checkpoints",)}
TF, SAME = {"tensorflow": True}, {"tensorflow": True, "answer": EQUAL}
SAVED = "checkpoints/step_00000002/state"
MANIFEST = "checkpoints/step_00000002/manifest.json"
PRESET, TOKENIZER, CACHE = "vim/preset/", "vit_vqgan/preset/", "vim/tokens/"

KINDS = [
    *PLAIN,
    damaged("preset config", PRESET + "config.json", open_generator, **SAME),
    damaged("preset metadata", PRESET + "metadata.json", open_generator, **SAME),
    damaged("preset weights", PRESET + "model.weights.h5", open_generator, **SAME),
    resealed("preset config, resealed", PRESET + "config.json", "preset", open_generator, **SAME),
    resealed("preset metadata, resealed", PRESET + "metadata.json", "preset", open_made_from, **TF),
    resealed(
        "tokenizer config, resealed", TOKENIZER + "config.json", "preset", open_tokenizer, **SAME
    ),
    swapped_weights(),
    architecture(),
    any_file(),
    damaged("cache header", CACHE + "header.json", open_cache, **SAME),
    resealed("cache header, resealed", CACHE + "header.json", "token cache", open_cache, **TF),
    damaged("cache shard", CACHE + "train-00-00000.tfrecord", open_cache, **SAME),
    damaged("cache images", CACHE + "images.npz", open_cache, **SAME),
    damaged("run images", "vim/images.npz", open_file_table, **SAME),
    archived("run images, packed again", "vim/images.npz", open_file_table, **SAME),
    damaged("manifest", MANIFEST, open_checkpoint, **STATE, **SAME),
    resealed("manifest, resealed", MANIFEST, "checkpoint", open_checkpoint, **STATE, **TF),
    damaged("checkpoint index", SAVED + ".index", open_checkpoint, **STATE, **SAME),
    damaged("checkpoint state", SAVED + ".data-00000-of-00001", open_checkpoint, **STATE, **SAME),
    damaged("best.json", "checkpoints/best.json", open_best, **STATE, **SAME),
    resealed(
        "best.json, resealed", "checkpoints/best.json", "checkpoint", open_best, **STATE, **TF
    ),
    damaged("probe.json", "vim/probe/probe.json", open_probed_block, **SAME),
    resealed("probe.json, resealed", "vim/probe/probe.json", "probe", open_probed_block, **TF),
    damaged("LiteRT file", "tflite/generator_float32.tflite", open_litert, **SAME),
    damaged("LiteRT about", "tflite/generator.json", open_litert, **SAME),
    resealed("LiteRT about, resealed", "tflite/generator.json", "export", open_litert, **TF),
    damaged("graph", "net.pb", open_net, **TF),
    damaged("graph, with its hash", "net.pb", open_hashed_net, **SAME),
    damaged("Keras archive", "net.keras", open_keras, **TF),
    archived("Keras archive, packed again", "net.keras", open_keras, **TF),
    damaged("statistics", "statistics.npz", open_statistics, **TF),
    archived("statistics, packed again", "statistics.npz", open_statistics, **TF),
    damaged("npz of images", "images.npz", open_npz, **TF),
    archived("npz of images, packed again", "images.npz", open_npz, **TF),
    damaged("weights of LPIPS", "lpips.safetensors", open_lpips, **TF),
    damaged("image of a folder", "one/a/0.png", open_folder, **TF),
    damaged("image of a run", "images/train/red/0.png", open_changed_images, **SAME),
    damaged("IDX images", "idx/train-images-idx3-ubyte", open_idx, **TF),
    damaged("IDX labels", "idx/train-labels-idx1-ubyte", open_idx, **TF),
    damaged("TFRecord", "records/train-00000-of-00001", open_records, **TF),
    *HOSTILE,
    *TREES,
]
