import json

import pytest

from vim_tf.distribution.cluster import Cluster, read_cluster
from vim_tf.errors import UserError

TWO = ["a:1", "b:2"]


def environment(cluster, job="worker", index=0):
    return {
        "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}}),
    }


def test_workers_in_their_order():
    assert read_cluster(environment({"worker": TWO}, index=1)) == Cluster(("a:1", "b:2"), 1)


def test_a_job_of_its_own_for_the_chief():
    """Managed services name it so. Then workers are numbered after the chief, and others wait."""
    jobs = {"worker": TWO, "chief": ["c:3"], "evaluator": ["d:4"]}
    assert read_cluster(environment(jobs, "chief")) == Cluster(("c:3", "a:1", "b:2"), 0)
    assert read_cluster(environment(jobs, "worker", 1)) == Cluster(("c:3", "a:1", "b:2"), 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "TF_CONFIG is not set"),
        ({"TF_CONFIG": ""}, "TF_CONFIG is not set"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG is {, which has the wrong form"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG is [], which has the wrong form"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "which has the wrong form"),
        (environment({"worker": TWO}, index=2), "the task worker 2, and the cluster has worker 0"),
        (environment({"worker": TWO}, index=-1), "the task worker -1"),
        (environment({"worker": TWO}, "chief"), "the task chief 0"),
        (environment({"worker": TWO, "evaluator": ["c:1"]}, "evaluator"), "the task evaluator 0"),
        (environment({}), "and the cluster has no worker"),
        (environment({"worker": ["a:1", "b"]}), "the address b, which is no HOST:PORT"),
        (environment({"worker": ["a:1", 5]}), "the address 5, which is no HOST:PORT"),
        (environment({"worker": ["a:1", "a:1"]}), "has an address twice: a:1, a:1"),
        (environment({"worker": TWO, "chief": ["c:1", "d:1"]}), "has more than one chief"),
    ],
)
def test_what_is_wrong_is_said(given, said):
    with pytest.raises(UserError) as refused:
        read_cluster(given)
    line = str(refused.value)
    assert said in line
    assert "on every machine set TF_CONFIG=" in line
    assert "\n" not in line
