"""Tests a served model under load, or with bad requests: many clients, all signatures.

    python benchmarks/serving_load.py --export out                     # 8 clients, 10 minutes
    python benchmarks/serving_load.py --export out --malformed 10000   # bad requests instead

Starts tests/export/serving/server.py, which replaces TensorFlow Serving here, on the loopback
interface, and stops it at the end. Before the load, each request is sent alone. Every later answer
is compared with that answer. Half of the clients use REST, half gRPC. Prints latencies by
signature, errors and the server's memory. Exits with 1 if any answer was wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from serving_requests import BadRequests, Grpc, Rest, equal_answers, make_inputs, read_protocol

from vim_tf.export.serving.kit import client

SERVER = Path(__file__).parents[1] / "tests" / "export" / "serving" / "server.py"
POOL = 6  # different requests per signature
MAX_ROWS = 4
BAD = "bad: "  # comes before the names of bad requests
BAD_A_GOOD = 10  # bad requests between two good ones


class Recorder:
    """The results of the clients, which share it."""

    def __init__(self):
        self._lock = threading.Lock()
        self.seconds = {}  # by (signature, protocol)
        self.problems = []

    def took(self, key, seconds):
        """Records one answer."""
        with self._lock:
            self.seconds.setdefault(key, []).append(seconds)

    def problem(self, text):
        """Records a problem."""
        with self._lock:
            self.problems.append(text)


class Memory(threading.Thread):
    """Reads the resident memory of a process once per second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._path = Path(f"/proc/{pid}/status")
        self._stopped = threading.Event()
        self.samples = [(time.monotonic(), self._read("VmRSS"))]

    def _read(self, key):
        line = next(line for line in self._path.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024

    def run(self):
        """Samples until `stop`."""
        while not self._stopped.wait(1.0):
            self.samples.append((time.monotonic(), self._read("VmRSS")))

    def stop(self):
        """Returns {"start", "middle", "end", "peak": MiB, "slope": MiB per minute}.

        Loading takes more memory than the model needs, and frees it later. So `slope` is that of
        the second half.
        """
        self._stopped.set()
        self.join()
        self.samples.append((time.monotonic(), self._read("VmRSS")))
        times, sizes = np.array(self.samples).T
        share = (times - times[0]) / (times[-1] - times[0])
        late = share >= 0.5
        slope = np.polyfit(times[late] / 60, sizes[late], 1)[0] if sum(late) > 2 else 0.0
        return {
            "start": sizes[0],
            "middle": sizes[late][0],
            "end": sizes[-1],
            "peak": self._read("VmHWM"),
            "slope": float(slope),
        }


def ask_alone(server, protocol):
    """Sends one request after the other; returns [(signature, inputs, answer)]."""
    rng = np.random.default_rng(0)
    cases = []
    for name, inputs in server.signatures().items():
        for i in range(POOL):
            values = make_inputs(protocol, inputs, 1 + i % MAX_ROWS, rng)
            answer = server.predict(name, values)
            if any(answer["error"]):
                raise SystemExit(f"error: {name} refuses good rows: {answer['error']}")
            cases.append((name, values, answer))
    return cases


def ask(server, kind, case, recorder):
    """Sends one good request and compares its answer."""
    name, inputs, expected = case
    start = time.monotonic()
    try:
        answer = server.predict(name, inputs)
    except client.ClientError as error:
        recorder.problem(f"{name} by {kind}: {error}")
        return
    recorder.took((name, kind), time.monotonic() - start)
    if not equal_answers(answer, expected):
        recorder.problem(f"{name} by {kind}: another answer than alone")


def run_good(number, server, kind, cases, end, recorder):
    """Runs one client of the load until `end`."""
    rng = np.random.default_rng(number)
    while time.monotonic() < end:
        ask(server, kind, cases[rng.integers(len(cases))], recorder)


def run_bad(number, server, kind, cases, addresses, count, bad, recorder):
    """Runs a client of `count` bad requests, every kind in turn, with good requests between."""
    rng = np.random.default_rng(number)
    raw = {"REST": Rest, "gRPC": Grpc}[kind](addresses[kind])
    good_of = {}
    for case in cases:
        good_of.setdefault(case[0], []).append(case)
    for i in range(count):
        if i % BAD_A_GOOD == 0:
            ask(server, kind, cases[rng.integers(len(cases))], recorder)
        choice = (i + 7 * number) % (len(bad.rows) + len(bad.whole[kind]))
        if choice < len(bad.rows):
            name, signature, changes, word = bad.rows[choice]
            case = good_of[signature][rng.integers(POOL)]
            check, values = _spoil_a_row, (server, case, changes, word, rng)
        else:
            name, content, code, word = bad.whole[kind][choice - len(bad.rows)]
            check, values = _expect_refusal, (raw, content, code, word)
        try:
            check(*values)
            recorder.took((BAD + name, kind), 0.0)
        except (AssertionError, client.ClientError, OSError, ValueError) as error:
            recorder.problem(f"{name} by {kind}: {type(error).__name__} {error}")


def _spoil_a_row(server, case, changes, word, rng):
    """The bad row gets an error message; the good rows of its request are answered as always."""
    signature, inputs, expected = case
    rows = len(expected["error"])
    place = rng.integers(rows + 1)
    spoilt = {}
    for key, values in inputs.items():
        row = changes.get(key, values[0])
        spoilt[key] = [*values[:place], row, *values[place:]]
    answer = server.predict(signature, spoilt)
    error = answer["error"][place]
    assert word in error, f"the error is {error!r}, without {word!r}"
    others = {key: [*values[:place], *values[place + 1 :]] for key, values in answer.items()}
    assert equal_answers(others, expected), "a row beside the bad one changed"


def _expect_refusal(raw, content, code, word):
    got, text = raw.post(content)
    assert got == code, f"status {got} instead of {code}: {text}"
    assert text and word in text, f"the error is {text!r}, without {word!r}"


def guard(recorder, run, values):
    """Runs a client. If the client itself fails, this is recorded as a problem too."""
    try:
        run(*values)
    except Exception as error:
        recorder.problem(f"a client broke down: {type(error).__name__} {error}")


def percentile(values, share):
    """Milliseconds."""
    return 1000 * float(np.quantile(values, share))


def report(recorder, memory, seconds):
    """Prints the tables, and returns them as a dict."""
    rows = [
        {
            "signature": name,
            "protocol": kind,
            "calls": len(values),
            "p50": percentile(values, 0.5),
            "p99": percentile(values, 0.99),
        }
        for (name, kind), values in sorted(recorder.seconds.items())
    ]
    good = [row for row in rows if not row["signature"].startswith(BAD)]
    bad = sum(row["calls"] for row in rows) - sum(row["calls"] for row in good)
    print("| signature | protocol | calls | p50 | p99 |\n|---|---|---:|---:|---:|")
    for row in good:
        print(
            f"| {row['signature']} | {row['protocol']} | {row['calls']:,} "
            f"| {row['p50']:.1f} ms | {row['p99']:.1f} ms |"
        )
    total = sum(row["calls"] for row in good)
    print(f"\n{total:,} good and {bad:,} bad requests in {seconds:.0f} s")
    print(
        f"memory of the server: {memory['start']:.0f} MiB when loaded, {memory['middle']:.0f} MiB "
        f"half-way, {memory['end']:.0f} MiB at the end, peak {memory['peak']:.0f} MiB; slope of "
        f"the second half {memory['slope']:+.2f} MiB a minute"
    )
    print(f"errors and wrong answers: {len(recorder.problems)}")
    for text in recorder.problems[:10]:
        print(f"  {text[:300]}")
    return {
        "seconds": seconds,
        "good": total,
        "bad": bad,
        "bad_kinds": sorted({r["signature"] for r in rows} - {r["signature"] for r in good}),
        "problems": recorder.problems,
        "memory": memory,
        "rows": good,
    }


def parse_arguments(arguments=None):
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", required=True, type=Path, help="folder with vim/ and serving/")
    parser.add_argument("--seconds", type=float, default=600, help="seconds of load (default 600)")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--malformed", type=int, nargs="?", const=10_000, help="send bad requests instead (10000)"
    )
    parser.add_argument("--report", type=Path, help="JSON file for the figures")
    return parser.parse_args(arguments)


def main(arguments=None):
    """The command line."""
    arguments = parse_arguments(arguments)
    command = [sys.executable, str(SERVER), "--export", str(arguments.export)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        ports = json.loads(process.stdout.readline())
        result = measure(arguments, ports) | {"server_pid": ports["pid"]}
        assert process.poll() is None, "the server died"
    finally:
        process.stdin.close()
        process.wait(60)
    if arguments.report:
        arguments.report.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if result["problems"] else 0)


def measure(arguments, ports):
    """Runs the clients against a server; returns `report`'s dict."""
    addresses = {
        "REST": f"http://127.0.0.1:{ports['rest']}",
        "gRPC": f"grpc://127.0.0.1:{ports['grpc']}",
    }
    servers = {kind: client.connect(address, "vim", 60) for kind, address in addresses.items()}
    protocol = read_protocol(arguments.export)
    cases = ask_alone(servers["gRPC"], protocol)
    recorder, memory = Recorder(), Memory(ports["pid"])
    memory.start()
    start = time.monotonic()
    if arguments.malformed:
        bad = BadRequests(protocol, servers["REST"].signatures())
        count = -(-arguments.malformed // arguments.clients)
        run, shared = run_bad, (addresses, count, bad, recorder)
    else:
        run, shared = run_good, (start + arguments.seconds, recorder)
    threads = []
    for number in range(arguments.clients):
        kind = ("REST", "gRPC")[number % 2]
        values = (number, servers[kind], kind, cases, *shared)
        threads.append(threading.Thread(target=guard, args=(recorder, run, values), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return report(recorder, memory.stop(), time.monotonic() - start)


if __name__ == "__main__":
    main()
