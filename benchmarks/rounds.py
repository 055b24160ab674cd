"""The worker of commits.py: repeats one kind of work, and prints the seconds of each round.

    python benchmarks/rounds.py vit_vqgan

Each line on standard input starts a round. The first round comes before any line: it compiles and
is not printed. Standard output has the wall clock and the processor time of all threads.
"""

import argparse
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from vim_tf.config import loader
from vim_tf.data.images import make_image_dataset
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.trainers.vim_trainer import VIMTrainer
from vim_tf.trainers.vit_vqgan_trainer import ViTVQGANTrainer

STEPS, BATCH, SIDE, TOKENS, CLASSES = 8, 64, 32, 64, 8
TOKENIZER, SECOND_STAGE = "configs/emoji/vit_vqgan.yaml", "configs/emoji/vim.yaml"


def main(arguments=None):
    """Answers until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--folder", help="folder of images that `opening` opens")
    arguments = parser.parse_args(arguments)
    keras.utils.set_random_seed(0)
    play = KINDS[arguments.kind](arguments)
    play()
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        play()
        print(time.perf_counter() - wall, time.process_time() - processor, flush=True)


def make_tokenizer_steps(_):
    """Training steps of the emoji tokenizer, with dropout, on noise."""
    experiment = load_tokenizer(["model.encoder.dropout=0.1", "model.decoder.dropout=0.1"])
    images = np.random.default_rng(0).uniform(-1, 1, (BATCH, SIDE, SIDE, 3)).astype("float32")
    return repeat(ViTVQGANTrainer(experiment), {"image": images})


def make_vim_steps(_):
    """Training steps of the emoji VIM, on noise."""
    random, tokenizer = np.random.default_rng(0), load_tokenizer()
    experiment = load_vim()
    trainer = VIMTrainer(experiment, ViTVQGAN(tokenizer.model, (SIDE, SIDE)), CLASSES)
    tokens = random.integers(0, tokenizer.model.quantizer.codes, (BATCH, TOKENS))
    labels = random.integers(0, CLASSES, BATCH)
    return repeat(trainer, {"token": tokens.astype("int32"), "label": labels.astype("int32")})


def make_generation(_):
    """Generation of the tokens of a batch of images, by the emoji VIM with fresh weights."""
    experiment, codes = load_vim(), load_tokenizer().model.quantizer.codes
    model = VIM(experiment.model, (TOKENS // 8, 8), codes, CLASSES)
    labels = np.arange(BATCH, dtype="int32") % CLASSES
    return lambda: np.asarray(model.generate(labels, seed=0))


def make_opening(arguments):
    """Opening a folder of images and computing its fingerprint."""
    overrides = ["data.source=folder", f"data.path={arguments.folder}"]
    config = load_tokenizer(overrides).data
    return lambda: make_image_dataset(config, 0).fingerprint()


KINDS = {
    "vit_vqgan": make_tokenizer_steps,
    "vim": make_vim_steps,
    "generation": make_generation,
    "opening": make_opening,
}


def load_tokenizer(overrides=()):
    """The experiment of the emoji tokenizer."""
    return loader.load_config([TOKENIZER], overrides)


def load_vim():
    """The experiment of the emoji VIM."""
    return loader.load_config([SECOND_STAGE], ["tokenizer.run=none"])


def repeat(trainer, batch):
    """A function that makes `STEPS` steps with a trainer."""
    trainer.compile()
    batch = {name: tf.constant(value) for name, value in batch.items()}
    step = tf.function(trainer.train_step, autograph=False)

    def play():
        for _ in range(STEPS):
            step(batch)
        trainer.step.numpy()

    return play


if __name__ == "__main__":
    main()
