"""One synthetic batch through a stage, call by call: what comes out, how large, how fast.

GFLOP/s are of products of matrices and convolutions alone, see `operation_counts`.
"""

import statistics
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from vim_tf.costs import operations as operation_counts
from vim_tf.costs.parameters import count_vgg16
from vim_tf.models.classifier import Classifier
from vim_tf.models.discriminator import Discriminator
from vim_tf.models.patches import patchify
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.sampling import sample as sampling
from vim_tf.stages import builders

MOST_IMAGES = 8  # so that a large model answers on a CPU
REPEATS = 3
DRAWN_TOKENS = 4  # a picture; all 1,024 of the paper's would take minutes on a CPU
COLUMNS = "{:<46} {:<18} {:<8} {:>14} {:>10} {:>8}\n"


def describe(experiment, stream=None):
    """Prints each call on the way of a batch with shape, dtype, parameters and milliseconds.

    Weights are fresh ones, except the tokenizer's of stage 2. Times are medians of `REPEATS`
    compiled forward passes on one device.

    Args:
        experiment: one of `experiments.EXPERIMENTS`.
        stream: where to write; standard output by default.

    Raises:
        UserError: stage 2 has no tokenizer, or one for another size of images.
    """
    table = _Table(stream or sys.stdout)
    batch = min(experiment.data.batch_size, MOST_IMAGES)
    table.say(
        f"{experiment.experiment}: a synthetic batch of {batch} images; "
        f"data.batch_size is {experiment.data.batch_size}"
    )
    shape = (batch, *experiment.data.image_size, 3)
    noise = np.random.default_rng(experiment.seed).uniform(-1, 1, shape)
    images = tf.constant(noise, tf.float32)
    ways = {
        "vit_vqgan": _describe_vit_vqgan,
        "vim": _describe_vim,
        "classifier": _describe_classifier,
    }
    ways[experiment.experiment](experiment, images, table)


class _Table:
    """Writes a line a call; says only once per part how many parameters it has."""

    def __init__(self, stream):
        self.stream = stream

    def say(self, text):
        self.stream.write(f"{text}\n")

    def start(self):
        self.stream.write(COLUMNS.format("call", "shape", "dtype", "parameters", "ms", "GFLOP/s"))

    def show(self, name, output, parameters="", milliseconds="", rate=""):
        shape = f"[{','.join(map(str, output.shape))}]"
        dtype = keras.backend.standardize_dtype(output.dtype)
        line = COLUMNS.format(name, shape, dtype, parameters, milliseconds, rate)
        self.stream.write(f"{line.rstrip()}\n")

    def call(self, name, function, *inputs, parameters=0, operations=0, fields=()):
        """Runs a call a few times, shows its output, or its named fields, and returns it.

        `operations` are those of one image.
        """
        function = tf.function(function, autograph=False)
        output = function(*inputs)
        seconds = []
        for _ in range(REPEATS):
            tf.test.experimental.sync_devices()
            started = time.perf_counter()
            output = function(*inputs)
            tf.test.experimental.sync_devices()
            seconds.append(time.perf_counter() - started)
        taken = statistics.median(seconds)
        first = (
            f"{parameters:,}" if parameters else "",
            f"{1000 * taken:,.1f}",
            f"{inputs[0].shape[0] * operations / taken / 1e9:,.1f}" if operations else "",
        )
        if not fields:
            self.show(name, output, *first)
        for i, field in enumerate(fields):
            self.show(f"{name}.{field}", getattr(output, field), *(first if i == 0 else ()))
        return output


def _describe_vit_vqgan(experiment, images, table):
    model = ViTVQGAN(experiment.model, experiment.data.image_size)
    networks = {"ViTVQGAN": model}
    patch_size = experiment.model.patch_size
    sizes = experiment.model, experiment.data.image_size
    table.start()
    table.show("images", images)
    table.call("patchify(images)", lambda x: patchify(x, patch_size), images)
    features = table.call(
        "ViTEncoder(images)",
        model.encoder,
        images,
        parameters=model.encoder.count_params(),
        operations=operation_counts.count_encoder_operations(*sizes),
    )
    output = table.call(
        "VectorQuantizer(features)",
        model.quantizer,
        features,
        parameters=model.quantizer.count_params(),
        operations=operation_counts.count_quantizer_operations(*sizes),
        fields=("latents", "codes", "tokens"),
    )
    table.call(
        "ViTVQGAN.decode(codes)",
        model.decode,
        output.codes,
        parameters=model.decoder.count_params(),
        operations=operation_counts.count_decoder_operations(*sizes),
    )
    table.call("ViTVQGAN.decode_tokens(tokens)", model.decode_tokens, output.tokens)
    if experiment.losses.adversarial:
        discriminator = Discriminator(experiment.discriminator, experiment.data.image_size)
        discriminator.build()
        networks["Discriminator"] = discriminator
        table.call(
            "Discriminator(images)",
            discriminator,
            images,
            parameters=discriminator.count_params(),
            operations=operation_counts.count_discriminator_operations(
                experiment.discriminator, experiment.data.image_size
            ),
        )
    for name, network in networks.items():
        table.say(f"{name}: {network.count_params():,} parameters")
    if experiment.losses.perceptual:
        table.say(f"PerceptualFeatures (VGG16): {count_vgg16():,} parameters, frozen; not run here")


def _describe_vim(experiment, images, table):
    tokenizer = builders.open_tokenizer(experiment)
    class_names = (tokenizer.metadata or {}).get("class_names", ())
    config = tokenizer.config.quantizer
    model = VIM(experiment.model, tokenizer.grid, config.codes, len(class_names))
    batch, length = images.shape[0], model.tokens_per_image
    labels = tf.range(batch) % max(model.classes, 1)
    blocks = model.transformer.count_params()
    ends = sum(layer.count_params() for layer in (model.norm, model.head))
    table.say(
        f"{model.classes} classes, as the tokenizer was trained on"
        if model.classes
        else "no classes: every picture has the null label"
    )
    table.start()
    table.show("images", images)
    tokens = table.call(
        "ViTVQGAN.tokenize(images)", tokenizer.tokenize, images, parameters=tokenizer.count_params()
    )
    table.show("labels", labels)
    embeddings = table.call(
        "VIM: embeddings of labels, tokens, positions",
        lambda tokens, labels: model._embed(tokens, labels, False),
        tokens,
        labels,
        parameters=model.count_params() - blocks - ends,
    )
    table.call(
        "VIM: transformer blocks",
        model.transformer,
        embeddings,
        parameters=blocks,
        operations=operation_counts.count_transformer_operations(model.config.transformer, length),
    )
    table.call(
        "VIM(tokens, labels): logits",
        model,
        tokens,
        labels,
        parameters=ends,
        operations=operation_counts.count_vim_operations(model.config, length, config.codes),
    )
    last = len(model.transformer.blocks)
    table.call(
        f"VIM.features(tokens, block={last})", lambda tokens: model.features(tokens, last), tokens
    )

    def generate(labels):
        def next_logits(previous, position, cache):
            return model.next_logits(previous, position, cache, labels)

        drawn, _ = sampling.generate_tokens(
            next_logits,
            model.init_cache(batch),
            tf.zeros([length, batch], tf.int32),
            sampling.row_seeds(0, batch),
            tf.ones([batch]),
            stop=min(DRAWN_TOKENS, length),
        )
        return tf.transpose(drawn)

    drawn = table.call(
        f"sampling.generate_tokens, {min(DRAWN_TOKENS, length)} of {length}", generate, labels
    )
    table.call("ViTVQGAN.decode_tokens(tokens)", tokenizer.decode_tokens, drawn)
    table.say(f"VIM: {model.count_params():,} parameters")
    table.say(f"ViTVQGAN, the tokenizer: {tokenizer.count_params():,} parameters, frozen")


def _describe_classifier(experiment, images, table):
    _, data = builders.open_sources(experiment, strategy=None)
    classes = len(data.class_names)
    table.say(f"{classes} classes, as the data has")
    model = Classifier(experiment.model, experiment.data.image_size, classes)
    table.start()
    table.show("images", images)
    table.call("Classifier(images): logits", model, images, parameters=model.count_params())
