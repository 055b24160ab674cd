"""Are a VIM's samples of their class, and are they new?

    python -m vim_tf.evaluation.sample_check --run runs/vim --per-class 32 --out runs/check

An independent classifier, a small residual network, learns the classes from the original training
pictures alone. Its accuracy on samples is held against its accuracy on held-out originals; both
are means over classes, since the classes differ in size. A sheet shows samples beside their
nearest training pictures.
"""

import argparse
import json
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.neighbors import NearestNeighbors

from vim_tf import command_line, pictures
from vim_tf.data.images import make_image_dataset
from vim_tf.errors import UserError
from vim_tf.generator import ImageGenerator, to_uint8
from vim_tf.runs import Run, write_atomically

FEWEST_HELD_OUT = 5  # of a class whose accuracy counts
NEIGHBOURS = 3


def make_classifier(image_size, classes, width=32):
    """Builds a small residual network: images [B,H,W,3] in [-1,1] -> logits [B,classes]."""
    images = keras.Input((*image_size, 3))
    x = layers.Conv2D(width, 3, padding="same", use_bias=False)(images)
    for stage in range(3):
        channels = width * 2**stage
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        shortcut = layers.Conv2D(channels, 1, 2 if stage else 1, use_bias=False)(y)
        y = layers.Conv2D(channels, 3, 2 if stage else 1, padding="same", use_bias=False)(y)
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
        y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(y)
        x = layers.Add()([shortcut, y])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x)))
    return keras.Model(images, layers.Dense(classes)(layers.Dropout(0.3)(x)))


def train_classifier(data, steps, learning_rate=2e-3):
    """Trains `make_classifier` on the augmented training pictures of an `ImageData`."""
    model = make_classifier(data.config.image_size, len(data.class_names))
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batches = data.train().map(lambda batch: (batch["image"], batch["label"]))
    model.fit(batches, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
    return model


def accuracy_per_class(model, images, labels, classes):
    """Share of each class's images [M,H,W,3] that the model gives their label; NaN if none."""
    hits = np.argmax(model.predict(images, batch_size=256, verbose=0), -1) == labels
    return np.array([hits[labels == i].mean() if np.any(labels == i) else np.nan for i in classes])


def nearest_pictures(images, pool, count=NEIGHBOURS):
    """Nearest of `pool` [P,H,W,3] to each of `images` [M,H,W,3] by pixels, mirrored ones too.

    Returns:
        (pictures [M,count,H,W,3], root mean square distance a pixel [M,count]).
    """
    pool = np.concatenate([pool, pool[:, :, ::-1]])
    search = NearestNeighbors(n_neighbors=count, algorithm="brute")
    search.fit(pool.reshape(len(pool), -1).astype("float32"))
    flat = images.reshape(len(images), -1).astype("float32")
    distances, places = search.kneighbors(flat)
    return pool[places], distances / np.sqrt(flat.shape[1])


def check(run, out, per_class, steps, seed, **settings):
    """Runs both checks; writes report.json and neighbours.png into `out`, returns the report."""
    generator = ImageGenerator.load(run)
    classes = len(generator.class_names)
    if not classes:
        raise UserError(f"{run} was trained without labels; there are no classes to recognise")
    experiment = Run(run).load_experiment()
    data = make_image_dataset(experiment.data, experiment.seed)
    keras.utils.set_random_seed(seed)
    classifier = train_classifier(data, steps)
    held_out = _collect(data, "validation")
    original = accuracy_per_class(classifier, *held_out, range(classes))
    labels = np.repeat(np.arange(classes), per_class)
    samples = generator.generate(labels, seed=seed, **settings)
    sampled = accuracy_per_class(classifier, samples / 127.5 - 1, labels, range(classes))
    counts = np.bincount(held_out[1], minlength=classes)
    counted = counts >= FEWEST_HELD_OUT
    shown = np.random.default_rng(seed).choice(len(samples), 24, replace=len(samples) < 24)
    pool = to_uint8(_collect(data, "train")[0])
    neighbours, distances = nearest_pictures(samples[shown], pool)
    held_out_distances = nearest_pictures(to_uint8(held_out[0]), pool, 1)[1]
    all_distances = nearest_pictures(samples, pool, 1)[1]
    report = {
        "run": str(run),
        "seed": seed,
        "settings": settings,
        "samples_per_class": per_class,
        "classifier_steps": steps,
        "accuracy_held_out": float(original[counted].mean()),
        "accuracy_samples": float(sampled[counted].mean()),
        "ratio": float(sampled[counted].mean() / original[counted].mean()),
        "classes": {
            name: {
                "held_out_pictures": int(counts[i]),
                "accuracy_held_out": None if counts[i] == 0 else float(original[i]),
                "accuracy_samples": float(sampled[i]),
                "counted": bool(counted[i]),
            }
            for i, name in enumerate(generator.class_names)
        },
        "median_distance_to_training": {
            "samples": float(np.median(all_distances)),
            "held_out": float(np.median(held_out_distances)),
        },
        "samples_nearer_than_any_held_out": float(
            np.mean(all_distances < held_out_distances.min())
        ),
    }
    sheet = np.concatenate([samples[shown][:, None], neighbours], axis=1)  # [24,1+count,H,W,3]
    columns = 4 * sheet.shape[1]
    grid = pictures.image_grid(sheet.reshape(-1, *sheet.shape[2:]), columns, zoom=2)
    pictures.write_png(out / "neighbours.png", grid)
    write_atomically(out / "report.json", json.dumps(report, indent=1) + "\n")
    return report


def _collect(data, split):
    batches = [(b["image"].numpy(), b["label"].numpy()) for b in data.evaluation(split)]
    return tuple(np.concatenate(part) for part in zip(*batches, strict=True))


def main(arguments=None):
    """The command line; raises UserError for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m vim_tf.evaluation.sample_check")
    parser.add_argument("--run", required=True, help="folder of a class-conditional VIM run")
    parser.add_argument("--out", required=True, help="folder for report.json and neighbours.png")
    parser.add_argument("--per-class", type=int, default=32)
    parser.add_argument("--classifier-steps", type=int, default=600)
    command_line.add_sampling(parser)
    arguments = parser.parse_args(arguments)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    report = check(
        arguments.run,
        out,
        arguments.per_class,
        arguments.classifier_steps,
        arguments.seed,
        **command_line.sampling_settings(arguments),
    )
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    command_line.run(main)
