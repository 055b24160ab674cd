"""The benchmarks run and measure correctly. Their figures are for docs."""

import importlib
import itertools
import re
import shutil
import sys
from pathlib import Path

import keras
import pytest

import vim_tf
from vim_tf.data import decoded_cache
from vim_tf.errors import UserError
from vim_tf.export.litert import tflite, tflite_generator
from vim_tf.runs.run import Run
from vim_tf.runs.trained_run import open_run

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def contest(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("VIM_TF_PEERS_PYTHON", "/none/python")
    import contest

    return contest


def test_contestants_take_turns(contest, monkeypatch):
    """Uses a clock that each call advances by its own time."""
    now, order = [0.0], []

    def make(name, times):
        times = itertools.chain([100.0], times)  # the first call compiles and does not count

        def call():
            order.append(name)
            now[0] += next(times)

        return contest.Contestant(name, call, operations=30.0, items=4)

    steady, other = make("steady", [2.0, 2.1, 1.9]), make("other", [1.0, 3.0, 1.5])
    monkeypatch.setattr(contest.time, "perf_counter", lambda: now[0])
    contest.run([steady, other], repeats=3)
    assert order == ["steady", "other"] * 4
    assert steady.time == pytest.approx(2.0)
    assert steady.rate == pytest.approx(15)
    assert steady.spread == pytest.approx(0.1)
    assert other.time == pytest.approx(1.5)
    assert contest.warning([steady]) == ""
    words = "busy machine: calls of other differ by 133% of their median"
    assert contest.warning([steady, other]).startswith(words)


ROW = r"\| ([^|]*\w) \| [\d.,]+ \| [\d.,]+ \| \d+% \|"


def test_forward_passes(contest, capsys):
    import forward

    given = ["--models", "tiny", "--batches", "1", "3", "--image-size", "32", "--product", "64"]
    forward.main([*given, "--repeats", "2", "--precision", "mixed_bfloat16"])
    out, said = capsys.readouterr()
    assert re.match(r"Keras [\d.]+ on tensorflow, mixed_bfloat16, 32 px, median of 2; limit", out)
    found = re.findall(ROW, out)
    assert found == [f"tiny, {what} {n}" for n in (1, 3) for what in ("tokenize", "decode")]
    assert "/none/python is not there, so that only vim_tf is timed; `make venv-peers`" in said


STEPS = ["tiny autoencoder alone", "tiny with the discriminator"]
STEPS += ["tiny with the discriminator and R1", "VIM tiny, 16 tokens"]
KINDS = ("", ", LiteRT float32", ", LiteRT dynamic_int8")
ROWS = {
    "forward --models tiny --batches 2 --image-size 32 --litert": [
        f"tiny, {what} 2{kind}" for what in ("tokenize", "decode") for kind in KINDS
    ],
    "quantizer --vectors 64 --codes 16 24": ["16 codes", "24 codes"],
    "sampling --model tiny --tokens 16 --batches 1 2 --guidance": [
        "Keras, batch 1", "Keras, batch 1, guidance", "Keras, batch 2", "Keras, batch 2, guidance"
    ],
    "sampling --model tiny --tokens 16 --batches 3 --litert --precision mixed_bfloat16": [
        "Keras, batch 3", "LiteRT float32, batch 3", "LiteRT dynamic_int8, batch 3"
    ],
    "steps --tokenizer tiny --vim tiny --image-size 32 --tokens 16": STEPS,
}  # fmt: skip


@pytest.mark.large
@pytest.mark.parametrize("command", ROWS)
def test_tables(contest, monkeypatch, capsys, command):
    monkeypatch.setattr("limits.STREAM_BYTES", 2**20)
    name, *given = command.split()
    importlib.import_module(name).main([*given, "--repeats", "1"])
    assert re.findall(ROW, capsys.readouterr().out) == ROWS[command]


@pytest.mark.large
def test_input_pipeline(contest, capsys):
    import input_pipeline

    input_pipeline.main(["--images", "70", "--batches", "2", "--repeats", "1"])
    out = capsys.readouterr().out
    assert len(re.findall(r"\| [^|]+ \| [\d,]+ \|", out)) == 3
    assert re.search(r"crops take [\d.]+ times as long as decoding alone", out)


def test_folder_start(contest, capsys, monkeypatch):
    import folder_start

    monkeypatch.setenv("XDG_CACHE_HOME", "")  # what the benchmark sets is undone
    monkeypatch.setattr(decoded_cache, "WORTH", 0)
    folder_start.main(["--images", "4", "--sizes", "16"])
    found = capsys.readouterr()
    assert re.search(r"\| 16 \| [\d.]+ \| [\d.]+ \| [\d.]+ \|", found.out)
    assert found.err.count("is kept in") == found.err.count("is read from") == 1


@pytest.mark.parametrize(
    ("stage", "litert"),
    [("vit_vqgan", False), ("vim", False), pytest.param("vim", True, marks=pytest.mark.large)],
)
def test_low_precision(contest, capsys, tiny_runs, tmp_path, stage, litert):
    import low_precision

    given = ["--run", str(tiny_runs[stage])]
    if litert:
        run = open_run(tiny_runs[stage])
        tflite.export_tflite(run, tmp_path)
        tflite_generator.export_generator(run, tmp_path)
        given += ["--litert", str(tmp_path)]
    capsys.readouterr()
    low_precision.main(given)
    out = capsys.readouterr().out
    assert out.startswith(f"10 held-out images of {tiny_runs[stage]}\n")
    rows = re.findall(r"\| (tokens|PSNR|nats)[^|]* \| ([\d. |]+) \|", out)
    assert [name for name, _ in rows] == ["tokens", "PSNR", "nats"][: 2 + (stage == "vim")]
    for name, cells in rows:
        exact, *rough = map(float, cells.split("|"))
        assert len(rough) == 1 + litert
        assert (exact == 100) == (name == "tokens")
        assert 0 < abs(exact - rough[0]) < (0.5 if name == "tokens" else 0.05) * exact
        if litert:  # few of its layers are large enough for int8
            assert rough[1] == pytest.approx(exact, abs=0.02)


@pytest.mark.large
def test_scale(contest, capsys, monkeypatch):
    import scale

    monkeypatch.setitem(scale.VARIED, "batch", (1, 2))
    scale.main(["--model", "tiny", "--varied", "batch", "--repeats", "1"])
    assert re.search(r"\| batch \| 1, 2 \| [\d., ]+ \| -?\d\.\d\d \|\n", capsys.readouterr().out)


CASES = """
def double(number):
    print("not an answer")
    if number < 0:
        raise ValueError("number is negative")
    return (lambda: None), {"name": f"twice {number}"}
"""


def test_peers_answer_from_a_process_of_their_own(contest, tmp_path, monkeypatch, capfd):
    import peers_process

    shutil.copytree(BENCHMARKS / "peers", tmp_path / "peers")
    (tmp_path / "peers" / "cases.py").write_text(CASES)
    monkeypatch.setattr(peers_process, "HERE", tmp_path)
    monkeypatch.setenv(peers_process.ENVIRONMENT, sys.executable)
    with peers_process.open_peers() as peers:
        call, name = peers.make("double", number=4)
        assert name == "twice 4"
        ours = contest.Contestant("ours", lambda: None, operations=5.0, items=2)
        match = contest.Match(ours, {name: contest.Contestant(name, call)})
        contest.run(match.contestants, repeats=2)
        ours.seconds, match.others[name].seconds = [0.5, 0.5], [0.25, 0.25]
        table = contest.format_table([match, contest.Match(ours)], "img/s", lambda one: 0.1)
        with pytest.raises(RuntimeError, match="the peers' process ended at .*-1"):
            peers.make("double", number=-1)
    heads, _, *rows = table.splitlines()
    assert heads == "| work | ms | img/s | of the limit | twice 4, img/s | ours / its |"
    assert rows == [
        "| ours | 500.0 | 4.00 | 20% | 4.00 | 1.00 |",
        "| ours | 500.0 | 4.00 | 20% |  |  |",
    ]
    assert "ValueError: number is negative" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats is 0; it must be 1 or more"),
        (["--batches", "4", "0"], r"--batches is \[4, 0\]"),
        (["--image-size", "60"], "--image-size 60; .* a multiple of 8"),
    ],
)
def test_mistakes_are_one_line(contest, arguments, message):
    import forward

    with pytest.raises(UserError, match=message):
        forward.main(arguments)


@pytest.mark.large
def test_two_checkouts_take_turns(contest, capsys):
    import commits

    checkout = str(BENCHMARKS.parent)
    given = ["--kinds", "generation", "opening", "--images", "60", "--pairs", "1"]
    commits.main(["--other", checkout, *given])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| generation", "| opening"]
    ratios = [float(row.split(" | ")[3]) for row in rows]
    assert all(0.1 < ratio < 10 for ratio in ratios)  # the same code


def test_a_folder_that_is_no_checkout(contest, tmp_path):
    import commits

    with pytest.raises(UserError, match="has no benchmarks/rounds.py"):
        commits.main(["--other", str(tmp_path)])


@pytest.mark.large
def test_the_adversarial_grid_compares_runs_of_one_length(
    contest, tiny_configs, tmp_path, capsys, monkeypatch
):
    adversarial_grid = importlib.import_module("adversarial_grid")
    monkeypatch.setattr(adversarial_grid, "FACTORS", (3,))
    arguments = ["--config", str(tiny_configs["vit_vqgan"]), "--workdir", str(tmp_path)]
    adversarial_grid.main([*arguments, "--set", "training.steps=4", "training.evaluate_every=2"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| x 3 | x 3")]
    assert len(rows) == 1
    assert re.fullmatch(
        r"\| x 3 \| x 3 \| \S+ dB \| \S+ dB \| \S+ dB \| \d+% of a guess \| \S+ \|", rows[0]
    )
    assert (tmp_path / "rate_3_weight_3" / "metrics.jsonl").is_file()


@pytest.mark.large
def test_arms_are_compared_with_the_first(contest, tiny_configs, capsys):
    arms = importlib.import_module("arms")
    common = ["--config", str(tiny_configs["vit_vqgan"]), "--repeats", "2"]
    narrow = ["--arm", "narrow", "losses.adversarial=0"]
    arms.main([*common, *narrow, "--arm", "deep", "losses.adversarial=0", "model.decoder.blocks=3"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [row[0] for row in rows] == ["| narrow", "| deep"]
    assert rows[0][3] == "1.00"
    assert float(rows[1][5].rstrip(" |")) > 1


@pytest.mark.large
def test_arms_of_a_tokenizer_and_of_its_decoder(contest, tiny_configs, tiny_runs, capsys):
    arms = importlib.import_module("arms")
    alone = ["losses.adversarial=0", f"tokenizer.run={tiny_runs['vit_vqgan']}"]
    arms.main(
        ["--config", str(tiny_configs["vit_vqgan"]), "--repeats", "2", "--steps", "1000"]
        + ["--arm", "whole", "losses.adversarial=0"]
        + ["--arm", "decoder", str(tiny_configs["decoder"]), *alone]
    )
    header, _, *rows = capsys.readouterr().out.splitlines()[:4]
    assert header.endswith("| steps of equal time | steps of equal operations |")
    whole, decoder = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    assert whole[:1] + whole[-2:] == ["whole", "1,000", "1,000"]
    ratio, steps = float(decoder[5]), int(decoder[7].replace(",", ""))
    assert steps == pytest.approx(1000 / ratio, rel=0.01)


@pytest.mark.large
def test_the_loss_study_trains_forks_and_goes_on(contest, tiny_configs, tmp_path, capsys):
    """The study of a tiny config: two arms and a decoder, one of them of another length."""
    loss_study = importlib.import_module("loss_study")
    network = keras.Sequential(
        [
            keras.layers.Input((16, 16, 3)),
            keras.layers.Conv2D(70, 3, strides=4, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    network.save(tmp_path / "judge.keras")
    given = ["--config", str(tiny_configs["vit_vqgan"]), "--workdir", str(tmp_path / "study")]
    given += ["--decoder-config", str(tiny_configs["decoder"]), "--metrics", "kid"]
    given += ["--judges", str(tmp_path / "judge.keras"), "--base-steps", "2", "--arm-steps", "4"]
    given += ["--arms", "l2", "l2@0.5", "decoder", "--set", "training.evaluate_every=2"]
    loss_study.main(given)
    table = (tmp_path / "study" / "table.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in table.splitlines()[2:]}
    assert list(rows) == ["l2", "l2@0.5", "decoder"]
    assert rows["l2"].endswith("| 1.00 |")
    steps = {
        path.name: max(record["step"] for record in Run(path).read_metrics())
        for path in (tmp_path / "study" / "seed_0").iterdir()
    }
    assert steps == {"base_plain": 2, "base_head": 2, "l2": 6, "l2@0.5": 4, "decoder": 4}
    bases = {name: vim_tf.load(tmp_path / "study" / "seed_0" / name) for name in steps}
    assert bases["decoder"].token_hash() == bases["base_head"].token_hash()
    assert (tmp_path / "study" / "curves.png").is_file()
    assert (tmp_path / "study" / "sheet.png").is_file()
    commands = (tmp_path / "study" / "commands.txt").read_text()
    assert len(commands.splitlines()) == 5 + 3
    capsys.readouterr()
    loss_study.main(given)  # nothing is trained or measured again
    assert (tmp_path / "study" / "commands.txt").read_text() == commands
    assert capsys.readouterr().out.strip().endswith(table.strip())


@pytest.mark.parametrize("arm", ["l3", "l2@x", "l2@0", "l2@-1", "decoder"])
def test_arms_of_the_loss_study_are_checked(contest, tiny_configs, tmp_path, arm):
    loss_study = importlib.import_module("loss_study")
    given = ["--config", str(tiny_configs["vit_vqgan"]), "--workdir", str(tmp_path / "study")]
    given += ["--base-steps", "2", "--arm-steps", "4", "--arms", arm]
    with pytest.raises(UserError, match=f"--arms has {arm}"):
        loss_study.main(given)
    assert not (tmp_path / "study").exists()
