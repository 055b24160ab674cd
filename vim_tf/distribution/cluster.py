"""The machines that train one model together; the environment variable TF_CONFIG names them.

TF_CONFIG='{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'

Every machine has the same `cluster` and its own `task`. The first worker is the chief, unless
there is a job `chief`. No TensorFlow is imported.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from vim_tf.errors import UserError

JOBS = ("chief", "worker")  # in the order of the replicas
_EXAMPLE = (
    '\'{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, '
    '"task": {"type": "worker", "index": 0}}\''
)


@dataclass(frozen=True)
class Cluster:
    """The addresses of the workers, and the index of this process among them.

    Attributes:
        addresses: "host:port" of each worker, the chief first.
        index: index of this worker in `addresses`.
    """

    addresses: tuple[str, ...]
    index: int


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster:
    """Returns the `Cluster` of TF_CONFIG.

    Raises:
        UserError: it is missing, is not JSON, or does not name a worker of its cluster.
    """
    text = environment.get("TF_CONFIG")
    if not text:
        raise _wrong("is not set")
    try:
        config = json.loads(text)
        jobs = {job: list(addresses) for job, addresses in config["cluster"].items()}
        job, index = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _wrong(f"is {text}, which has the wrong form") from None
    addresses = [address for name in JOBS for address in jobs.get(name, ())]
    for address in addresses:
        if not isinstance(address, str) or not address.rpartition(":")[2].isdecimal():
            raise _wrong(f"has the address {address}, which is no HOST:PORT")
    if len(set(addresses)) < len(addresses):
        raise _wrong(f"has an address twice: {', '.join(addresses)}")
    if len(jobs.get("chief", ())) > 1:
        raise _wrong("has more than one chief")
    if job not in JOBS or not 0 <= index < len(jobs.get(job, ())):
        known = ", ".join(f"{name} 0 to {len(jobs[name]) - 1}" for name in JOBS if jobs.get(name))
        raise _wrong(f"has the task {job} {index}, and the cluster has {known or 'no worker'}")
    before = len(jobs.get("chief", ())) if job == "worker" else 0
    return Cluster(tuple(addresses), before + index)


def announce(strategy: str) -> None:
    """Writes the worker's index and the workers it waits for, if `strategy` is "multi_worker".

    Raises:
        UserError: as `read_cluster`.
    """
    if strategy != "multi_worker":
        return
    cluster = read_cluster()
    others = ", ".join(a for i, a in enumerate(cluster.addresses) if i != cluster.index)
    sys.stderr.write(
        f"worker {cluster.index} of {len(cluster.addresses)}, at "
        f"{cluster.addresses[cluster.index]}; waiting for {others}\n"
    )


def _wrong(what: str) -> UserError:
    return UserError(
        f"strategy is multi_worker and TF_CONFIG {what}; on every machine set "
        f"TF_CONFIG={_EXAMPLE} with its own index"
    )
