import pytest

from vim_tf.config.experiments import ViTVQGANExperiment
from vim_tf.config.loss_sections import ViTVQGANLossConfig
from vim_tf.errors import UserError


def test_the_discriminators_optimizer_is_stylegan2s():
    """The paper's 1e-4 is too low for equalised weights; this one fits runs of any length."""
    optimizer = ViTVQGANExperiment().discriminator_optimizer
    assert (optimizer.learning_rate, optimizer.beta_1, optimizer.beta_2) == (2e-3, 0, 0.99)
    assert (optimizer.weight_decay, optimizer.warmup_steps) == (0, 0)
    assert optimizer.schedule == "constant"


def test_some_term_compares_reconstructions_with_images():
    none = {"l2": 0, "logit_laplace": 0, "perceptual": 0}
    with pytest.raises(UserError, match="are 0, so that nothing compares reconstructions"):
        ViTVQGANExperiment(losses=ViTVQGANLossConfig(**none))
    for name in none:
        ViTVQGANExperiment(losses=ViTVQGANLossConfig(**{**none, name: 0.1}))
