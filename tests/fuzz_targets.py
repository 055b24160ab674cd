"""The files that `fuzz.py` damages, and the functions that open them."""

import shutil
import tempfile
from pathlib import Path

import fuzz_mutations as mutations
import numpy as np
import tensorflow as tf

import vim_tf
from vim_tf import formats
from vim_tf.config.loader import load_config
from vim_tf.data.images import make_image_dataset
from vim_tf.data.token_cache import TokenCache
from vim_tf.evaluation.features import open_extractor
from vim_tf.evaluation.reference import open_reference
from vim_tf.files import hash_file
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.generation.litert_vim import LiteVIM
from vim_tf.runs.checkpoints import Checkpoints
from vim_tf.runs.run import Run
from vim_tf.runs.trained_run import open_run


def targets(world):
    """Returns all files that can be opened.

    Returns:
        ({name: function (rng) -> (path, new bytes, function that opens it, whether the answer must
        be unchanged)}, the functions that open the files with unchanged answers).
    """
    vim, tokenizer = world / "vim", world / "vit_vqgan"
    tokens = np.arange(32, dtype="int32").reshape(2, 16) % 16
    labels = np.int32([0, 1])
    net = world / "net.pb"
    data, tokenizer_hash = open_run(vim).data, vim_tf.load(tokenizer).model_hash()
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype="uint8")

    def answer(*arrays):
        return [np.asarray(array) for array in arrays]

    def open_tokenizer():
        return answer(vim_tf.load(tokenizer).decode_tokens(tokens))

    def open_generator():
        generator = ImageGenerator.load(vim)
        return answer(generator.vim(tokens, labels), generator.tokenizer.decode_tokens(tokens))

    def open_cache():
        cache = TokenCache.open(vim / "tokens", tokenizer_hash, data=data)
        return answer(cache.tokens["train"], cache.labels["train"])

    def open_images():
        return answer([open_run(vim).data.train_size])

    def open_checkpoint():
        variable = tf.Variable(0)
        with tempfile.TemporaryDirectory() as folder:  # damaged manifests are moved away
            shutil.copytree(world / "checkpoints", folder, dirs_exist_ok=True)
            step = Checkpoints({"a": variable}, folder, 3, say=lambda line: None).restore()
        if step == 1:  # the checkpoint before, or an error
            return None
        return answer([step, variable.numpy()])

    def open_config():
        load_config([world / "config.yaml"])

    def open_run_config():
        Run(vim).load_experiment()

    def open_litert():
        return answer(LiteVIM(world / "tflite" / "generator_float32.tflite").generate(labels))

    def open_net():
        extractor = open_extractor(net)
        return answer(extractor(images).pooled)

    def open_hashed_net():
        extractor = open_extractor(net, expected_hash=world_hash)
        return answer(extractor(images).pooled)

    def open_keras():
        return answer(open_extractor(world / "net.keras")(images).pooled)

    def open_statistics():
        extractor = open_extractor(net)
        found = open_reference(world / "statistics.npz", "--b", extractor)
        return answer(found.statistics.pooled.mean)

    def open_npz():
        extractor = open_extractor(net)
        found = open_reference(world / "images.npz", "--b", extractor)
        return answer(*found.images.batches(4))

    def open_folder():
        data = make_image_dataset(load_config([world / "folder.yaml"]).data, 0)
        return answer(*(batch["image"] for batch in data.evaluation("train")))

    world_hash = hash_file(net)

    def damaged(path, open_it, same=True):
        path = Path(path)
        whole = path.read_bytes()
        return lambda rng: (path, mutations.mutate(whole, rng), open_it, same)

    def resealed(path, kind, open_it):
        path = Path(path)
        content = formats.read_json(path, kind, "")

        def make(rng):
            changed = mutations.mutate_json(content, rng)
            return path, formats.to_json(kind, changed).encode(), open_it, False

        return make

    def swapped_weights(rng):
        """Weights of a stranger: the file is damaged, and the config has the hash of this file."""
        data = mutations.mutate(whole_weights, rng)
        (tokenizer / "preset" / "model.weights.h5").write_bytes(data)
        content = formats.read_json(tokenizer / "preset" / "config.json", "preset", "")
        content["weights"] = {
            "bytes": len(data),
            "sha256": hash_file(tokenizer / "preset" / "model.weights.h5"),
        }
        text = formats.to_json("preset", content).encode()
        return tokenizer / "preset" / "config.json", text, open_tokenizer, True

    whole_weights = (tokenizer / "preset" / "model.weights.h5").read_bytes()
    presets, header = vim / "preset", vim / "tokens" / "header.json"
    image = sorted((world / "images" / "train" / "red").iterdir())[0]
    manifest = world / "checkpoints" / "step_00000002" / "manifest.json"
    about = world / "tflite" / "generator.json"
    unchanged = [open_tokenizer, open_generator, open_cache, open_images, open_checkpoint]
    unchanged += [open_litert, open_hashed_net]
    return {
        "preset config": damaged(presets / "config.json", open_generator),
        "preset metadata": damaged(presets / "metadata.json", open_generator),
        "preset weights": damaged(presets / "model.weights.h5", open_generator),
        "preset config, resealed": resealed(presets / "config.json", "preset", open_generator),
        "preset metadata, resealed": resealed(presets / "metadata.json", "preset", open_images),
        "tokenizer config, resealed": resealed(
            tokenizer / "preset" / "config.json", "preset", open_tokenizer
        ),
        "tokenizer weights, resealed": swapped_weights,
        "cache header": damaged(header, open_cache),
        "cache header, resealed": resealed(header, "token cache", open_cache),
        "cache shard": damaged(vim / "tokens" / "train-00-00000.tfrecord", open_cache),
        "cache images": damaged(vim / "tokens" / "images.npz", open_cache),
        "run images": damaged(vim / "images.npz", open_images),
        "manifest": damaged(manifest, open_checkpoint),
        "manifest, resealed": resealed(manifest, "checkpoint", open_checkpoint),
        "checkpoint index": damaged(manifest.with_name("state.index"), open_checkpoint),
        "config": damaged(world / "config.yaml", open_config),
        "run config": damaged(vim / "config.yaml", open_run_config),
        "LiteRT file": damaged(world / "tflite" / "generator_float32.tflite", open_litert),
        "LiteRT about": damaged(about, open_litert),
        "LiteRT about, resealed": resealed(about, "export", open_litert),
        "graph": damaged(net, open_net, same=False),
        "graph, with its hash": damaged(net, open_hashed_net),
        "Keras archive": damaged(world / "net.keras", open_keras, same=False),
        "statistics": damaged(world / "statistics.npz", open_statistics, same=False),
        "npz of images": damaged(world / "images.npz", open_npz, same=False),
        "image": damaged(image, open_folder, same=False),
        "image of a run": damaged(image, open_images),
    }, unchanged
