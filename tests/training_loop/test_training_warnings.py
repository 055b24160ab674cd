"""Each warning is printed once, and only in its case."""

import math

import pytest

from vim_tf.config.experiments import VIMExperiment, ViTVQGANExperiment
from vim_tf.config.loss_sections import DiscriminatorConfig
from vim_tf.config.sections import DataConfig
from vim_tf.training_loop.training_warnings import Diagnosis

GUESS = 2 * math.log(2)


def watch(numbers, start=100, loss="non_saturating", every=100, **fixed):
    """{step: lines} of reports every 100 steps, one report per number of `discriminator`."""
    experiment = ViTVQGANExperiment(discriminator=DiscriminatorConfig(loss=loss))
    diagnosis = Diagnosis(experiment, None if start is None else lambda: start)
    found = {}
    for i, number in enumerate(numbers):
        step = every * (i + 1)
        lines = diagnosis.training(step, {"discriminator": number, "psnr": 20.0, **fixed})
        found |= {step: lines} if lines else {}
    return found


def test_a_collapsed_codebook():
    diagnosis = Diagnosis(ViTVQGANExperiment())
    assert diagnosis.training(1, {"psnr": 20.0}) == []  # not yet an epoch
    assert diagnosis.training(2, {"usage": 0.11}) == []
    (line,) = diagnosis.training(3, {"usage": 0.03})
    assert line.startswith("the codebook collapses: 3.0% of the codes are used; set model.quant")
    assert diagnosis.training(4, {"usage": 0.02}) == []


def test_a_codebook_that_collapses_within_the_first_epoch():
    experiment = ViTVQGANExperiment()
    assert experiment.model.quantizer.codes == 8192
    diagnosis = Diagnosis(experiment)
    assert diagnosis.evaluation(1, {"usage": 0.11, "perplexity": 20.0}) == []
    assert diagnosis.evaluation(2, {"usage": 0.02, "perplexity": 150.0}) == []  # ten images
    (line,) = diagnosis.evaluation(3, {"usage": 0.02, "perplexity": 50.0})
    assert line.startswith("the codebook collapses: 2.0% of the codes are used; set model.quant")
    assert diagnosis.evaluation(4, {"usage": 0.01, "perplexity": 4.0}) == []
    assert diagnosis.training(5, {"usage": 0.01}) == []


def small(image_size):
    """An experiment with 8,192 codes and images of so many pixels a side, in patches of 8."""
    experiment = ViTVQGANExperiment(data=DataConfig(path="x", image_size=(image_size, image_size)))
    assert experiment.model.quantizer.codes == 8192
    return experiment


def test_few_images_cannot_use_many_codes():
    # 22 images of 4 x 4 tokens: 352 of 8,192 codes at most, 4.3%.
    diagnosis = Diagnosis(small(32), images_per_epoch=22)
    assert diagnosis.training(1, {"usage": 0.03}) == []
    assert diagnosis.training(2, {"usage": 0.0044}) == []
    (line,) = diagnosis.training(3, {"usage": 0.0042})
    assert line.startswith(
        "the codebook collapses: 0.4% of the codes are used, of 4.3% that 22 imag"
    )
    # Enough images: as without a number.
    diagnosis = Diagnosis(small(32), images_per_epoch=512)
    (line,) = diagnosis.training(1, {"usage": 0.03})
    assert line.startswith("the codebook collapses: 3.0% of the codes are used; set model.quant")


def test_few_held_out_images_cannot_use_many_codes():
    # Two images of 16 tokens: at most 32 codes, so a perplexity of 20 is a wide use.
    diagnosis = Diagnosis(small(32))
    assert diagnosis.evaluation(1, {"usage": 25 / 8192, "perplexity": 20.0}, 2) == []
    assert diagnosis.evaluation(2, {"usage": 4 / 8192, "perplexity": 3.0}, 2) == []
    # 512 images have 8,192 tokens, but usage is of 256 images at a time, 4,096 codes at most.
    (line,) = diagnosis.evaluation(3, {"usage": 400 / 8192, "perplexity": 80.0}, 512)
    assert line.startswith(
        "the codebook collapses: 4.9% of the codes are used, of 50.0% that 256 im"
    )


@pytest.mark.parametrize(("loss", "undecided"), [("non_saturating", GUESS), ("hinge", 2.0)])
@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.04, "the discriminator wins"),
        (0.06, None),
        (0.97, None),
        (1.0, "cannot tell real from fake"),
    ],
)
def test_a_discriminator_that_wins_or_loses_for_long(loss, undecided, share, said):
    """Five reports after the start of the discriminator; the first report is before it."""
    found = watch([share * undecided] * 9, loss=loss)
    if said is None:
        assert found == {}
    else:
        assert list(found) == [600]
        (line,) = found[600]
        assert said in line


def test_a_short_problem_gives_no_warning():
    assert watch([0.0] * 5 + [0.5] + [0.0] * 4 + [0.5]) == {}
    assert watch([0.0] * 9, start=None) == {}  # without a discriminator


def test_the_two_remedies_of_a_discriminator_are_never_both_given():
    found = watch([0.01] * 6 + [GUESS] * 9)
    assert [len(lines) for lines in found.values()] == [1]
    found = watch([GUESS] * 6 + [0.01] * 9)
    assert [len(lines) for lines in found.values()] == [1]


def test_memorised_images():
    diagnosis = Diagnosis(VIMExperiment())
    assert diagnosis.training(100, {"nats": 3.0}) == []
    for step, nats in ((100, 4.0), (200, 3.0), (300, 3.02)):
        assert diagnosis.evaluation(step, {"nats": nats}) == []
    (line,) = diagnosis.evaluation(400, {"nats": 3.5})
    assert "3.5 nats on held-out images, after 3 at step 200; preset_best has the weights" in line
    assert diagnosis.evaluation(500, {"nats": 3.6}) == []
    assert diagnosis.evaluation(500, {"psnr": 3.6}) == []
