"""Tries damaged and hostile files and command lines for as long as you like: `make fuzz`.

    python tests/fuzz.py --seconds 600                      all kinds
    python tests/fuzz.py --only 'preset;graph'              the kinds with these words
    python tests/fuzz.py --replay build/fuzz/graph-1.json   one failure again
    python tests/fuzz.py --plants                           finds faults that are planted on purpose

Each case changes some files of tiny runs, exports and networks, and opens them as a command would;
or it gives a command some arguments. Within 60 seconds and 4 GB it must end in a UserError of one
line, or in an answer. Where only damage is tried, this must be the answer of the unchanged file.
Everything else is a failure: another exception, a dead process, a new file, a long message.

Hypothesis draws the cases and makes each failure as small as it can. The seconds count from the
first case on: making the files and starting the workers takes about twenty seconds more.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import hypothesis
import hypothesis.configuration
from fuzz_targets import KINDS
from fuzz_workers import FAILED, Workers
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

ROUND = {False: 100, True: 12}  # cases that Hypothesis draws at once, without and with TensorFlow
# (Seconds, cases of each kind without TensorFlow, cases of each kind with it) that must be tried.
LEAST = ((60, 200, 10), (3600, 2_000, 300))
SHRINKING = 60  # seconds for making a failure small
SLOW = 10  # seconds; a case that takes longer is not made small
PLANT_SECONDS = 600  # in which a planted fault must be found
FOUND = Path("build") / "fuzz"  # failures are kept here


def say(line):
    """Prints a line at once, also into a file."""
    print(line, flush=True)


def least(kind, seconds):
    """Returns how many cases of a kind must be tried in a number of seconds."""
    (short, *few), (long, *many) = LEAST
    share = (min(seconds, long) - short) / (long - short)
    low, high = few[kind.tensorflow], many[kind.tensorflow]
    return int(low + share * (high - low) if share >= 0 else low * seconds / short)


class _Found:
    """The failure that a round of Hypothesis makes small: which, since when, its last case."""

    what, text, start, seconds = "", "", 0.0, 0.0


class Fuzz:
    """Tries cases of some kinds, and keeps counts and failures.

    Args:
        world: the folder of unchanged files.
        chosen: the `Kind`s.
        seconds: time for all of them.
        seed: cases of the same seed are the same, as many of them as there is time for.
        plant: a fault of `fuzz_plants`; "" for none.
        say: called with each line for the user.

    Attributes:
        tried: {name of a kind: number of different cases}.
        outcomes: {(name of a kind, outcome): number of cases}.
        failures: {(name of a kind, what): the smallest case, its `Outcome`}.
    """

    def __init__(self, world, chosen, seconds, seed, plant="", say=say):
        self.kinds, self.seconds, self._seed, self._say = chosen, seconds, seed, say
        self._world = world
        self.workers = Workers(world, plant)
        self.tried = {kind.name: 0 for kind in chosen}
        self.outcomes, self.failures = {}, {}
        self._seen: dict[str, set[str]] = {kind.name: set() for kind in chosen}
        self._spent = dict.fromkeys(self.tried, 0.0)
        self._exhausted: set[str] = set()

    def run(self, stop=lambda: False):
        """Tries cases until the time is over, or until `stop()` is true after a round.

        The kinds with and without TensorFlow run side by side, each with all the time.
        """
        groups = [[k for k in self.kinds if k.tensorflow == need] for need in (False, True)]
        with ThreadPoolExecutor(len(groups)) as pool:
            list(pool.map(self._start, groups))
            list(pool.map(lambda group: self._run(group, stop), groups))
        self.workers.close()

    def _start(self, group):
        if group:
            self.workers.start(group[0].tensorflow)

    def _run(self, group, stop):
        rounds: Counter[str] = Counter()
        end = time.monotonic() + self.seconds
        while group and time.monotonic() < end and not stop():
            kind = min(group, key=self._turn)
            start, tried = time.monotonic(), self.tried[kind.name]
            shrinking = self._round(kind, rounds[kind.name], end)
            rounds[kind.name] += 1
            if self.tried[kind.name] == tried:  # few cases exist, and the others need the time
                self._exhausted.add(kind.name)
            self._spent[kind.name] += time.monotonic() - start
            end += shrinking  # takes no time from the others

    def _turn(self, kind):
        """The kind with the lowest value is next: first the least numbers, then equal times."""
        share = self.tried[kind.name] / max(least(kind, self.seconds), 1)
        enough = share >= 1 or kind.name in self._exhausted
        return (enough, self._spent[kind.name] if enough else share)

    def _round(self, kind, number, end):
        """Lets Hypothesis draw some cases of a kind; returns the seconds of making one small."""
        missing = least(kind, self.seconds) - self.tried[kind.name]
        found = _Found()

        @hypothesis.seed(f"{self._seed} {kind.name} {number}")
        @hypothesis.settings(
            derandomize=True,
            database=None,
            deadline=None,
            # A few more, since Hypothesis also tries cases again.
            max_examples=min(ROUND[kind.tensorflow], 5 + max(missing, 5)),
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @hypothesis.given(st.randoms(use_true_random=False))
        def try_one(rng):
            case = kind.draw(self._world, rng)  # always, since Hypothesis needs the same draws
            if found.what or time.monotonic() < end:
                self._try(kind, case, found)

        try:
            try_one()
        except Exception:
            if not found.what:  # the harness is at fault
                raise
        if not found.what:
            return 0
        self._report(kind, found.what)
        return time.monotonic() - found.start

    def _try(self, kind, case, found):
        """Tries a case; an exception tells Hypothesis that it is worth shrinking."""
        text = json.dumps(case)
        if found.what and time.monotonic() > found.start + found.seconds:
            if text == found.text:
                raise AssertionError(found.what)
            return
        new = text not in self._seen[kind.name]
        if not new and not found.what:
            return
        start = time.monotonic()
        outcome = self.workers.try_case(kind, case)
        seconds = time.monotonic() - start
        if new:
            self._seen[kind.name].add(text)
            self.tried[kind.name] += 1
            key = kind.name, outcome.outcome
            self.outcomes[key] = self.outcomes.get(key, 0) + 1
        if outcome.outcome != FAILED:
            return
        key = kind.name, outcome.what
        known = key in self.failures
        if not known or (outcome.what == found.what and len(text) <= len(found.text)):
            self.failures[key] = case, outcome
        if outcome.what != found.what and (known or found.what):
            if not known:  # shrinking has found another failure
                self._report(kind, outcome.what)
            return
        if not found.what:
            found.start = start
            found.seconds = 0 if seconds > SLOW else min(SHRINKING, self.seconds / 4)
        found.what, found.text = outcome.what, text
        raise AssertionError(outcome.what)

    def _report(self, kind, what):
        case, outcome = self.failures[kind.name, what]
        FOUND.mkdir(parents=True, exist_ok=True)
        stem = "".join(letter if letter.isalnum() else "_" for letter in kind.name)
        path = FOUND / f"{stem}-{list(self.failures).index((kind.name, what)) + 1}.json"
        path.write_text(
            json.dumps({"kind": kind.name, "case": case, **outcome._asdict()}, indent=1)
        )
        detail = "\n  ".join([line[:300] for line in outcome.detail.splitlines()[-12:]])
        self._say(f"FAILED {kind.name}: {what}\n  {path}\n  {json.dumps(case)[:300]}\n  {detail}")

    def report(self):
        """Prints the counts of each kind; returns whether all is well."""
        good = not self.failures
        for kind in self.kinds:
            found = {o: n for (name, o), n in self.outcomes.items() if name == kind.name}
            parts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(found.items()))
            count, wanted = self.tried[kind.name], least(kind, self.seconds)
            few = count < wanted
            good = good and not few
            note = f"; TOO FEW, {wanted} are wanted" if few else ""
            self._say(
                f"{kind.name}: {count} cases in {self._spent[kind.name]:.1f} s: "
                f"{parts or 'none'}{note}"
            )
        self._say(
            f"{sum(self.tried.values())} cases of {len(self.kinds)} kinds in {self.seconds} "
            f"seconds, {len(self.failures)} failures, {self.workers.replaced} workers replaced"
        )
        return good


def replay(world, path):
    """Tries one case again; returns whether it passes."""
    found = json.loads(Path(path).read_text())
    kind = next(kind for kind in KINDS if kind.name == found["kind"])
    workers = Workers(world)
    outcome = workers.try_case(kind, found["case"])
    workers.close()
    print(f"{kind.name}: {outcome.outcome} {outcome.what}\n{outcome.detail}")
    return outcome.outcome != FAILED


def find_plants(world, names, chosen, seed, say=say):
    """Plants each fault and looks for it; returns whether all are found.

    A failure counts only if the same case passes without the fault.
    """
    good = True
    for name in names:
        clean, found, start = Workers(world), [], time.monotonic()
        fuzz = Fuzz(world, chosen, PLANT_SECONDS, seed, name, lambda line: None)
        checked: set[tuple[str, str]] = set()
        lock = Lock()

        def caused(fuzz=fuzz, checked=checked, clean=clean, found=found, lock=lock):
            with lock:
                for key in fuzz.failures.keys() - checked:
                    checked.add(key)
                    kind = next(kind for kind in fuzz.kinds if kind.name == key[0])
                    if clean.try_case(kind, fuzz.failures[key][0]).outcome != FAILED:
                        found.append(key)
                return bool(found)

        fuzz.run(stop=caused)
        clean.close()
        seconds = time.monotonic() - start
        how = f"found in {seconds:.0f} s by {found[0][0]}: {found[0][1]}" if found else "NOT FOUND"
        say(f"{name}: {how}; {sum(fuzz.tried.values())} cases")
        good = good and bool(found)
    return good


def main():
    """The command line; exit code 1 if a case failed or too few were tried."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, help="0 in CI; by default another one each time")
    parser.add_argument("--only", default="", help="words of kinds, separated by semicolons")
    parser.add_argument("--world", help="a folder to make the files in, or to use again")
    parser.add_argument("--replay", metavar="FILE", help="try a failure again")
    parser.add_argument("--plant", default="", help="plant a fault of fuzz_plants.py")
    parser.add_argument("--plants", nargs="*", metavar="NAME", help="find planted faults (all)")
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    with tempfile.TemporaryDirectory(prefix="vim_tf_fuzz_") as temporary:
        hypothesis.configuration.set_hypothesis_home_dir(temporary)
        world = Path(arguments.world or Path(temporary) / "world")
        if not world.exists():
            make_world(world)
        words = [word for word in arguments.only.split(";") if word]
        chosen = [k for k in KINDS if not words or any(word in k.name for word in words)]
        if arguments.replay:
            good = replay(world, arguments.replay)
        elif arguments.plants is not None:
            import fuzz_plants

            good = find_plants(world, arguments.plants or fuzz_plants.PLANTS, chosen, seed)
        else:
            print(f"seed {seed}, {len(chosen)} kinds", flush=True)
            fuzz = Fuzz(world, chosen, arguments.seconds, seed, arguments.plant)
            fuzz.run()
            good = fuzz.report()
    sys.exit(not good)


def make_world(folder):
    """Makes the unchanged files in a process of its own, so that this one has no TensorFlow."""
    import subprocess

    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    code = f"import fuzz_world, pathlib; fuzz_world.make_world(pathlib.Path({str(unfinished)!r}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    if made.returncode:
        sys.exit(f"the files of the fuzz cannot be made:\n{made.stderr[-3000:]}")
    for path in unfinished.rglob("*.yaml"):
        path.write_text(path.read_text().replace(str(unfinished), str(folder)))
    unfinished.rename(folder)


if __name__ == "__main__":
    main()
