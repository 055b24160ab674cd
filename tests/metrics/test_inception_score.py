import numpy as np
import pytest
import scipy.special
import scipy.stats

from vim_tf import UserError
from vim_tf.metrics import inception_score
from vim_tf.metrics.inception_score import InceptionScore

CLASSES = 7


def make_logits(seed, rows):
    return (3 * np.random.default_rng(seed).normal(size=(rows, CLASSES))).astype("float32")


def definition(probabilities):
    """exp of the mean KL divergence, with SciPy's entropy."""
    p = probabilities.astype("float64")
    return np.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p]))


def score(rows, batch=16, **options):
    with InceptionScore(rows.shape[1], **options) as measure:
        for start in range(0, len(rows), batch):
            measure.update(rows[start : start + batch])
        assert measure.count == len(rows)
        return measure.result()


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize(("rows", "splits"), [(40, 1), (43, 10), (10, 10), (99, 4)])
def test_score_is_its_definition_in_consecutive_blocks(rows, splits, from_logits):
    logits = make_logits(0, rows)
    p = scipy.special.softmax(logits.astype("float64"), axis=1)
    blocks = [p[i * rows // splits : (i + 1) * rows // splits] for i in range(splits)]
    expected = [definition(block) for block in blocks]
    mean, deviation = score(logits if from_logits else p, splits=splits, from_logits=from_logits)
    assert mean == pytest.approx(np.mean(expected), rel=1e-6)
    assert deviation == pytest.approx(np.std(expected), rel=1e-5, abs=1e-6)


def test_batches_and_chunks_do_not_matter(monkeypatch):
    logits = make_logits(1, 200)
    whole = score(logits, 200, splits=3, from_logits=True)
    assert score(logits, 7, splits=3, from_logits=True) == whole
    monkeypatch.setattr(inception_score, "CHUNK", 11)
    assert score(logits, splits=3, from_logits=True) == pytest.approx(whole, rel=1e-12)


def test_its_limits():
    sure = np.eye(CLASSES, dtype="float32")[np.arange(70) % CLASSES]  # zeros: 0 log 0 is 0
    assert score(sure, splits=2) == pytest.approx((CLASSES, 0), rel=1e-6)
    one_class = np.eye(CLASSES, dtype="float32")[np.zeros(70, int)]
    assert score(one_class) == pytest.approx((1, 0), rel=1e-6)
    undecided = np.full((70, CLASSES), 1 / CLASSES)
    assert score(undecided) == pytest.approx((1, 0), rel=1e-6)
    huge = 1e30 * sure
    assert score(huge, splits=2, from_logits=True) == pytest.approx((CLASSES, 0), rel=1e-6)


def test_the_result_may_be_asked_for_on_the_way():
    logits = make_logits(2, 60)
    with InceptionScore(CLASSES, 2, from_logits=True) as measure:
        measure.update(logits[:20])
        assert measure.result() == score(logits[:20], splits=2, from_logits=True)
        measure.update(logits[20:])
        assert measure.result() == score(logits, splits=2, from_logits=True)


def test_logits_are_not_taken_for_probabilities():
    rows = np.full((5, CLASSES), 1 / CLASSES)
    rows[3] = make_logits(0, 1)
    with InceptionScore(CLASSES) as measure:
        measure.update(rows[:2])
        with pytest.raises(UserError, match="row 5 of the probabilities has the sum"):
            measure.update(rows)
        with pytest.raises(UserError, match="needs a softmax"):
            measure.update([[1.5, -0.5, 0, 0, 0, 0, 0]])
        assert measure.count == 2


@pytest.mark.parametrize("from_logits", [False, True])
def test_the_row_that_is_not_finite_is_named(from_logits):
    rows = np.full((5, CLASSES), 1 / CLASSES)
    rows[3, 2] = np.nan
    with InceptionScore(CLASSES, from_logits=from_logits) as measure:
        with pytest.raises(UserError, match="row 3 of the features holds nan at place 2"):
            measure.update(rows)


def test_fewer_images_than_splits_are_refused():
    with pytest.raises(UserError, match="of 9 images in 10 splits"):
        score(make_logits(0, 9), from_logits=True)


def test_its_rows_lie_in_the_given_folder(tmp_path):
    with pytest.raises(UserError, match="no file can be made in"):
        InceptionScore(CLASSES, folder=tmp_path / "none")
