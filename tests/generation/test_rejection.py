from types import SimpleNamespace

import numpy as np
import pytest

from vim_tf import generate
from vim_tf.drawing import grids
from vim_tf.errors import UserError
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.generation.rejection import accept


class Numbered:
    """A generator. Sample i is the number i, and so is its image."""

    class_names = ("a", "b", "c")
    vim = SimpleNamespace(codes=1000)

    def generate_tokens(self, labels, n, batch_size, seed):
        self.drawn = labels
        for start in range(0, len(labels), batch_size):
            yield np.arange(start, min(start + batch_size, len(labels)))[:, None]

    def decode(self, tokens):
        return tokens


class Judge:
    """A classifier that gives every number a probability of each label."""

    def __init__(self):
        self.probabilities = np.random.default_rng(0).uniform(size=(1000, 3))

    def check_classes(self, names, argument):
        assert (names, argument) == (Numbered.class_names, "reject")

    def label_probabilities(self, images, labels):
        return self.probabilities[images[:, 0], labels]


@pytest.mark.parametrize(
    ("acceptance", "drawn"), [(0.5, {2: 6, 0: 4}), (0.3, {2: 10, 0: 7}), (1.0, {2: 3, 0: 2})]
)
@pytest.mark.parametrize("batch_size", [3, 100])
def test_the_best_of_each_class_are_kept(acceptance, drawn, batch_size):
    generator, judge, labels = Numbered(), Judge(), [2, 0, 2, 2, 0]
    accepted = accept(generator, judge, labels, acceptance, batch_size=batch_size)
    kept = accepted.tokens[:, 0].astype(int)
    assert {c: int(np.sum(generator.drawn == c)) for c in drawn} == drawn
    assert accepted.candidates == sum(drawn.values())
    assert accepted.rate == 5 / sum(drawn.values()) <= acceptance
    for label in drawn:
        candidates = np.flatnonzero(generator.drawn == label)
        order = np.argsort(-judge.probabilities[candidates, label])
        best = candidates[order[: labels.count(label)]]
        # They are in the positions of the label, in the order of drawing.
        assert list(kept[np.array(labels) == label]) == sorted(best)
    assert accepted.probability == pytest.approx(judge.probabilities[kept, labels].mean())
    everything = judge.probabilities[np.arange(accepted.candidates), generator.drawn]
    assert accepted.candidates_probability == pytest.approx(everything.mean())


def test_a_quotient_that_is_whole_but_for_rounding():
    generator = Numbered()
    accept(generator, Judge(), [0, 0, 0], 0.1)
    assert len(generator.drawn) == 30


# The command line -------------------------------------------------------------------------------


@pytest.fixture
def run(tiny_runs, tiny_classifier, tmp_path):
    def run(*arguments, reject=tiny_classifier):
        out = tmp_path / "x.png"
        given = ["--run", str(tiny_runs["vim"]), "--out", str(out), "--reject", str(reject)]
        generate.main([*given, *arguments])
        return out

    return run


def test_kept_samples_are_drawn(run, tiny_runs, tiny_classifier, capsys, monkeypatch):
    import vim_tf

    drawn = {}
    monkeypatch.setattr(grids, "labelled_rows", lambda rows, *_: drawn.update(rows=rows))
    monkeypatch.setattr(grids, "write_png", lambda *_: None)
    run("--per-class", "2", "--acceptance", "0.4", "--seed", "5")
    candidates = ImageGenerator.load(tiny_runs["vim"]).generate([0] * 5 + [1] * 5, seed=5)
    logits = np.asarray(vim_tf.load(tiny_classifier)(candidates / 127.5 - 1))
    margin = logits[:, 0] - logits[:, 1]  # grows with the probability of class 0
    for label, sign in ((0, -1), (1, 1)):
        rows = np.arange(5) + 5 * label
        best = np.sort(rows[np.argsort(sign * margin[rows])[:2]])
        np.testing.assert_array_equal(drawn["rows"][label], candidates[best])
    assert "kept 4 of 10 samples (rate 0.400); mean probability" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "0"], "give both or neither"),
        (["--labels", "0", "--acceptance", "0"], "acceptance is 0.0; it must be above 0"),
        (["--labels", "0", "--acceptance", "1.5"], "acceptance is 1.5; it must be above 0"),
        (["--acceptance", "0.5"], "give --labels or --per-class"),
    ],
)
def test_mistakes(run, arguments, message):
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_acceptance_alone_is_refused(tiny_runs, tmp_path):
    given = ["--run", str(tiny_runs["vim"]), "--out", str(tmp_path / "x.png")]
    with pytest.raises(UserError, match="give both or neither"):
        generate.main([*given, "--acceptance", "0.5"])


def test_a_classifier_of_other_classes_is_refused(run, tmp_path):
    import keras

    model = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.save(tmp_path / "three.keras")
    with pytest.raises(UserError, match="three.keras knows 3 classes, and the model has 2"):
        run("--labels", "0", "--acceptance", "0.5", reject=tmp_path / "three.keras")
