"""What an evaluation draws: all classes, or some spread over all, and the learning rates."""

import math

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vim_tf.runs.run import Run
from vim_tf.stages import vim_stage
from vim_tf.stages.registry import stage_class


@pytest.fixture
def open_stage(tiny, tiny_runs, tmp_path):
    """A function (name, *overrides) -> a stage that has not trained."""

    def open_stage(name, *overrides):
        run = Run(tmp_path / "run")
        if name == "vim":
            overrides = ("tokenizer.online=true", "tokenizer.passes=1", *overrides)
            overrides = (f"tokenizer.run={tiny_runs['vit_vqgan']}", *overrides)
        experiment = tiny(name, *overrides)
        run.start(experiment)
        return stage_class(experiment)(experiment, tf.distribute.OneDeviceStrategy("CPU:0"), run)

    return open_stage


@pytest.fixture
def labels_asked_for(monkeypatch):
    """The labels of each call of `ImageGenerator.generate`; black images come back."""
    found = []

    def generate(self, labels=None, n=None, **_):
        found.append(None if labels is None else list(map(int, labels)))
        return np.zeros((n or len(labels), 16, 16, 3), "uint8")

    monkeypatch.setattr("vim_tf.generation.image_generator.ImageGenerator.generate", generate)
    return found


def test_reconstructions_are_of_all_classes(open_stage, monkeypatch):
    """The first images of a folder are all of its first class, blue."""
    monkeypatch.setattr("vim_tf.stages.vit_vqgan_stage.SHOWN_IMAGES", 4)
    images = np.asarray(open_stage("vit_vqgan", "losses.adversarial=0").shown_images)
    assert images.shape == (4, 16, 16, 3)
    is_red = images[..., 0].mean((1, 2)) > images[..., 2].mean((1, 2))
    assert is_red.tolist() == [False, False, True, True]


def test_samples_are_of_classes_spread_over_all(open_stage, labels_asked_for):
    stage = open_stage("vim")
    names = tuple(f"class {i}" for i in range(41))
    object.__setattr__(stage.generator, "class_names", names)
    drawn = stage.draw_images()
    assert set(drawn) == {"samples", "samples_by_class"}
    without, by_class = labels_asked_for
    assert without is None
    shown = by_class[:: vim_stage.SHOWN_PER_CLASS]
    assert len(shown) == vim_stage.SHOWN_CLASSES == 20
    assert (shown[0], shown[-1]) == (0, 39)
    assert set(np.diff(shown)) <= {2, 3}


def test_a_model_that_always_saw_labels_draws_all_classes_in_turn(open_stage, labels_asked_for):
    open_stage("vim", "model.label_drop=0").draw_images()
    in_turn, by_class = labels_asked_for
    assert in_turn == [0, 1] * 32
    assert by_class == [0] * 8 + [1] * 8


def test_a_model_that_never_saw_labels_draws_none(open_stage, labels_asked_for):
    assert set(open_stage("vim", "model.label_drop=1").draw_images()) == {"samples"}
    assert labels_asked_for == [None]


def test_learning_rates_are_in_metrics_and_tensorboard(tiny, tiny_runs):
    run = Run(tiny_runs["vim"])
    found = {r["step"]: r["learning_rate"] for r in run.read_metrics() if r["kind"] == "train"}
    config = tiny("vim").optimizer  # a warm-up of 2 steps, a decay from step 4 to step 6
    assert (config.warmup_steps, config.decay_start, config.learning_rate) == (2, 4, 1e-3)
    # Of the step that comes next; at the end the final rate.
    expected = {2: 1e-3, 3: 1e-3, 5: 1e-3 * math.sqrt(config.final_ratio)}
    expected[6] = 1e-3 * config.final_ratio
    assert found == pytest.approx(expected, rel=1e-4)
    events = EventAccumulator(str(run.tensorboard_dir), {"tensors": 0})
    events.Reload()
    scalars = events.Tensors("learning_rate")
    values = {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in scalars}
    assert values == pytest.approx(expected, rel=1e-4)


def test_the_discriminator_has_a_rate_of_its_own(open_stage):
    settings = ("discriminator.start=2", "discriminator.ramp_steps=0")
    trainer = open_stage("vit_vqgan", *settings).trainer
    rates = {name: float(rate) for name, rate in trainer.learning_rates().items()}
    assert rates == pytest.approx({"learning_rate": 1e-3, "discriminator_learning_rate": 0})
    trainer.adversary.optimizer.iterations.assign(2)
    assert float(trainer.learning_rates()["discriminator_learning_rate"]) == pytest.approx(1e-3)


def test_curves_have_the_learning_rate(open_stage, tmp_path, monkeypatch):
    stage, run, panels = open_stage("classifier"), Run(tmp_path / "run"), []
    monkeypatch.setattr(stage, "draw_images", dict)
    monkeypatch.setattr(
        "vim_tf.stages.stage.curves.draw_curves", lambda _, given, path: panels.extend(given)
    )
    stage.draw(run)
    assert panels[-1][0] == "learning rate"
    assert ("train", "learning_rate") in panels[-1][2]
