"""The paper's recipe, small: `recipe_runs` trains all configs, here the two distinct ones."""

import importlib.util
from pathlib import Path

import pytest

from vim_tf.config.loader import load_config

SCRIPT = Path(__file__).parent / "recipe_runs.py"
CONFIGS = SCRIPT.parents[1] / "configs" / "imagenet_256"
# With the perceptual loss, and the linear probe's without it.
RECIPES = {"vit_vqgan_bb": (220, 16), "vit_vqgan_ss_no_perceptual": (300, 16)}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("recipe_runs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.large
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_the_paper_holds_in_miniature(name, script, real_styles, hed_trunk, tmp_path):
    steps, batch_size = RECIPES[name]
    experiment = load_config([CONFIGS / f"{name}.yaml"])
    small = script.make_miniature(
        experiment, real_styles / "styles", hed_trunk, steps, batch_size=batch_size
    )
    figures = script.train(small, tmp_path / "run")
    assert script.find_problems(figures) == [], figures


def test_problems_are_found(script):
    good = {"usage": 0.5, "first_psnr": 12.0, "last_psnr": 15.0, "discriminator": 0.9}
    assert script.find_problems(good) == []
    for bad, problem in (
        ({"usage": 0.1}, "10.0% of the codes are used"),
        ({"last_psnr": 11.9}, "PSNR does not rise"),
        ({"discriminator": 0.99}, "the discriminator's loss is 99.0% of that of guessing"),
        ({"discriminator": 0.04}, "the discriminator's loss is 4.0% of that of guessing"),
    ):
        assert script.find_problems(good | bad) == [problem]


def test_every_config_of_stage_1_has_a_miniature(script, tmp_path):
    (tmp_path / "vgg.h5").write_bytes(b"")
    configs = script.stage_1_configs()
    assert len(configs) > 8
    for path in configs:
        experiment = load_config([path])
        small = script.make_miniature(experiment, tmp_path, tmp_path / "vgg.h5", 300)
        assert small.optimizer.learning_rate == experiment.optimizer.learning_rate
        assert small.optimizer.warmup_steps <= 300
