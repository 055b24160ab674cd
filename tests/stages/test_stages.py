import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from vim_tf.errors import UserError
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.load import load
from vim_tf.runs.run import Run
from vim_tf.stages import registry


def make_stage(experiment, strategy, run):
    return registry.stage_class(experiment)(experiment, strategy, run)


def refuses(experiment, match, strategy=None, path="nowhere"):
    strategy = strategy or tf.distribute.get_strategy()
    with pytest.raises(UserError, match=match) as caught:
        make_stage(experiment, strategy, Run(path))
    assert "\n" not in str(caught.value)


def test_the_batch_must_divide_among_replicas(tiny, two_replicas):
    refuses(tiny("vit_vqgan", "data.batch_size=7"), "is 7, replicas: 2; .* of 2$", two_replicas)
    thirds = "training.gradient_accumulation_steps=3"
    refuses(tiny("vit_vqgan", thirds), "is 8, replicas: 1 and .*_steps is 3; .* a multiple of 3$")
    refuses(tiny("vim", thirds), "is 8, replicas: 2 and .*_steps is 3; .* of 6$", two_replicas)


def test_a_tokenizer_must_be_named(tiny, tiny_runs, tmp_path):
    refuses(tiny("vim"), "tokenizer.run is not set")
    refuses(tiny("vim", f"tokenizer.run={tmp_path}"), "neither a run nor a preset")
    refuses(tiny("vim", f"tokenizer.run={tiny_runs['vim']}"), "holds a VIM")


def test_the_sizes_must_agree(tiny, tiny_runs):
    experiment = tiny("vim", f"tokenizer.run={tiny_runs['vit_vqgan']}", "data.image_size=[16,32]")
    refuses(experiment, r"data.image_size is \[16, 32\] and the tokenizer's is \[16, 16\]")


def test_a_decoder_and_its_tokenizer_must_fit(tiny, tiny_runs):
    """The tiny tokenizer has the output logit_laplace; one of rgb is made of its config."""
    run = f"tokenizer.run={tiny_runs['vit_vqgan']}"
    refuses(tiny("decoder"), "tokenizer.run is not set")
    refuses(tiny("decoder", f"tokenizer.run={tiny_runs['vim']}"), "holds a VIM; tokenizer.run need")
    refuses(tiny("decoder", run, "data.image_size=32"), r"is \[32, 32\] and the tokenizer's is")
    refuses(tiny("decoder", run, "perturbation.nearest=16"), "has 16 codes; give at most 15")


def test_logit_laplace_needs_a_decoder_of_its_own(tiny, tiny_runs, tmp_path):
    config = dataclasses.replace(tiny("vit_vqgan").model, output="rgb")
    ViTVQGAN(config, (16, 16)).save_to_preset(tmp_path / "rgb")
    settings = (f"tokenizer.run={tmp_path / 'rgb'}", "losses.logit_laplace=0.1")
    refuses(tiny("decoder", *settings), "is 0.1, and the output of .* is rgb; set losses.logit_l")


@pytest.mark.large
def test_a_decoders_preset_is_the_tokenizer_with_another_decoder(tiny_runs, tiny_decoder):
    old, new = load(tiny_runs["vit_vqgan"]), load(tiny_decoder)
    assert new.token_hash() == old.token_hash() == new.metadata["token_hash"]
    assert new.decoder_hash() != old.decoder_hash()
    assert new.metadata["made_from"]["tokens"] == old.token_hash()
    assert new.metadata["steps"] == 6 and new.metadata["class_names"] == ["blue", "red"]
    assert (tiny_decoder / "images" / "reconstructions.png").exists()
    records = list(Run(tiny_decoder).read_metrics())
    assert {"total", "l2", "psnr", "l2_gradient"} <= set(records[0])
    assert not any("usage" in record for record in records)


@pytest.fixture
def unlabelled(tiny_images):
    """Overrides for the images of one class only, so that its folder is no class."""
    return (f"data.path={tiny_images}/train/red", "data.validation_path=null")


def test_labels_are_needed_for_a_conditional_model(tiny, tiny_runs, unlabelled):
    overrides = (f"tokenizer.run={tiny_runs['vit_vqgan']}", *unlabelled)
    refuses(tiny("vim", *overrides), "model.conditional is true, but .* have no labels")


@pytest.fixture
def stage(tiny, tiny_runs, unlabelled, tmp_path):
    overrides = (
        f"tokenizer.run={tiny_runs['vit_vqgan']}",
        "tokenizer.online=true",
        "model.conditional=false",
        "data.validation_fraction=0.4",
        *unlabelled,
    )
    run = Run(tmp_path / "run")
    experiment = tiny("vim", *overrides)
    run.start(experiment)
    return make_stage(experiment, tf.distribute.OneDeviceStrategy("CPU:0"), run), run


def test_unlabelled_images_tokenized_while_training(stage):
    """Runs a step, an evaluation, samples and a preset, without a cache and without classes."""
    stage, run = stage
    assert stage.trainer.model.classes == 0
    batch = next(iter(stage.train_dataset(24, 0)))
    assert batch["image"].shape == (8, 16, 16, 3)
    assert np.isfinite(float(stage.trainer.train_step(batch)["nats"]))
    held_out = next(iter(stage.evaluation_dataset))
    assert np.all(np.isfinite(stage.trainer.evaluate_batch(held_out)["nats"]))
    drawn = stage.draw(run)
    assert set(drawn) == {"samples"}
    assert not (run.path / "tokens").exists()
    run.save_preset(stage.save)
    assert ImageGenerator.load(run.path).class_names == ()


def test_batches_start_where_they_are_asked_to(tiny, tmp_path):
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    stage = make_stage(tiny("vit_vqgan", "seed=-1"), strategy, Run(tmp_path))
    third = list(stage.train_dataset(0, 0).take(3))[2]
    first = next(iter(stage.train_dataset(16, 0)))
    np.testing.assert_array_equal(first["image"], third["image"])
    np.testing.assert_array_equal(first["label"], third["label"])
    other = next(iter(stage.train_dataset(16, 1)))  # after a rollback
    assert np.any(other["image"].numpy() != third["image"].numpy())
    assert stage.images_per_epoch == 24
    assert sum(len(batch["label"]) for batch in stage.evaluation_dataset) == 10


def test_a_classifier_needs_classes(tiny, unlabelled):
    refuses(tiny("classifier", *unlabelled), "have 0 classes, and a classifier needs 2 or more")
