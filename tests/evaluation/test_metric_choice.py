"""Which metrics are computed, by the numbers of images and of features. No network is run."""

from types import SimpleNamespace

import pytest

from vim_tf.errors import UserError
from vim_tf.evaluation.metric_choice import (
    METRICS,
    choose_metrics,
    figure_names,
    fit_to_counts,
    real_name,
)

JUDGE = SimpleNamespace(path="judge.keras", name="judge", dim=1280, spatial_dim=None)
SMALL = SimpleNamespace(path="small.keras", name="small", dim=63, spatial_dim=None)
INCEPTION = SimpleNamespace(path="net.pb", name="", dim=2048, spatial_dim=2023)


def fit(count, *others, asked=False, metrics=None, network=JUDGE, small=False):
    metrics = choose_metrics(metrics, network)
    reference, *_ = (*others, count)
    return fit_to_counts("samples", count, reference, metrics, network, small, asked, "g")


def test_the_default_is_what_the_network_supports():
    assert choose_metrics(None, INCEPTION) == METRICS == ("kid", "fid", "fd64", "sfid", "is", "pr")
    assert choose_metrics(None, JUDGE) == ("kid", "fid", "fd64", "is", "pr")
    assert choose_metrics(None, SMALL) == ("kid", "fid", "is", "pr")
    assert choose_metrics(["is", "fd64", "is"], JUDGE) == ("fd64", "is")
    assert choose_metrics(None, None) == ()
    with pytest.raises(UserError, match="sfid, which needs the spatial .*; judge.keras has none"):
        choose_metrics(["sfid"], JUDGE)
    with pytest.raises(
        UserError, match="fd64, which needs 64 features or more; small.keras has 63"
    ):
        choose_metrics(["fd64"], SMALL)


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (2560, "kid fid fd64 is pr"),
        (2559, "kid fd64 is pr"),
        (1000, "kid fd64 is pr"),
        (999, "kid is pr"),
        (9, "kid pr"),
        (3, "kid"),
    ],
)
def test_metrics_with_too_few_images_are_left_out(count, kept):
    for counts in ((count, 5000), (5000, count)):
        found, missing = fit(*counts)
        # The Inception Score is of the judged images alone.
        wanted = kept if counts[0] == count or count > 9 else kept.replace("kid", "kid is")
        assert " ".join(found) == wanted
        gone = [metric for metric in choose_metrics(None, JUDGE) if metric not in found]
        assert list(missing) == [name for m in gone for name in figure_names(m, JUDGE, "g")]


def test_the_reason_names_what_to_use_instead():
    _, missing = fit(2559, 9000)
    assert missing["gFID[judge]"].startswith(
        "fid of 2,559 samples with 1,280 features needs at least twice as many images, 2,560: "
    )
    assert missing["gFID[judge]"].endswith("; use KID and FD64 instead")
    assert fit(1000)[1]["gFID[judge]"].endswith("; use KID and FD64 instead")
    _, missing = fit(9000, 999)
    alone = "; use KID instead, and read it with its standard error"
    assert missing["gFID[judge]"].endswith(alone)
    assert missing["FD64[judge]"] == f"fd64 of 999 reference images needs at least 1,000{alone}"
    _, missing = fit(1500, network=INCEPTION)
    assert missing["sFID"].endswith("; use KID and FD64 instead")
    _, missing = fit(1500, network=SMALL)
    assert missing == {}
    _, missing = fit(120, network=SMALL)
    assert missing["gFID[small]"].endswith(alone)


@pytest.mark.parametrize(
    ("count", "metric", "advice"),
    [
        (2559, "fid", "give more images, set metrics to kid,fd64, or set allow_small_n"),
        (999, "fid", "give more images, set metrics to kid, or set allow_small_n"),
        (999, "fd64", "give more images, set metrics to kid, or set allow_small_n"),
        (9, "is", "needs at least 10; give more images, or leave it out"),
        (3, "pr", "needs at least 4; give more images, or leave it out"),
        (1, "kid", "needs at least 2; give more images, or leave it out"),
    ],
)
def test_a_metric_that_was_asked_for_is_refused(count, metric, advice):
    with pytest.raises(UserError, match=f"^{metric} of {count:,} samples .*{advice}"):
        fit(count, 9000, metrics=[metric], asked=True)
    with pytest.raises(UserError, match="too few images for every metric: "):
        fit(count, 9000, metrics=[metric])


def test_small_sets_can_be_allowed():
    assert fit(2, small=True)[0] == ("kid", "fid", "fd64")
    assert fit(2, metrics=["fid"], asked=True, small=True) == (("fid",), {})
    with pytest.raises(UserError, match="fid of 1 samples"):
        fit(1, metrics=["fid"], asked=True, small=True)


def test_statistics_of_an_unknown_number_are_not_counted():
    assert fit(2560, None)[0] == ("kid", "fid", "fd64", "is", "pr")


def test_names():
    assert figure_names("fid", JUDGE, "r") == ["rFID[judge]"]
    assert figure_names("fd64", JUDGE, "r") == ["FD64[judge]"]
    assert real_name("fid", JUDGE) == "FID real[judge]"
    assert [real_name(metric, INCEPTION) for metric in ("kid", "fd64")] == ["KID real", "FD64 real"]
