"""`evaluate reconstruction` and `evaluate generation` on tiny runs."""

import hashlib
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.linalg

from vim_tf import evaluate
from vim_tf.data.images import make_image_dataset
from vim_tf.data.transforms import to_uint8
from vim_tf.distribution import strategies
from vim_tf.errors import UserError
from vim_tf.evaluation.keras_classifier import open_classifier
from vim_tf.evaluation.lpips import open_lpips
from vim_tf.generation.image_generator import ImageGenerator
from vim_tf.generation.rejection import accept
from vim_tf.metrics.image_metrics import ssim
from vim_tf.models.vit_vqgan import ViTVQGAN
from vim_tf.runs.load import load_tokenizer
from vim_tf.runs.run import Run


@pytest.fixture
def classifier(tmp_path):
    """(path of a proxy network, function: uint8 images -> its 4 features)."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 5, 4, activation="tanh")(inputs)
    features = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(features))
    model.save(tmp_path / "colours.keras")
    network = keras.Model(inputs, features)
    return tmp_path / "colours.keras", lambda images: network.predict(
        images / 127.5 - 1, verbose=0
    ).astype("float64")


@pytest.fixture
def run(tmp_path):
    """A function (kind, run, *arguments) -> the result, read from the written file."""

    def run(kind, folder, *arguments, out="x.json"):
        given = [kind, "--run", folder, "--out", tmp_path / out, *arguments]
        evaluate.main([*map(str, given)])
        return json.loads((tmp_path / out).read_text())

    return run


def frechet(a, b):
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


def images_of(folder, split="validation"):
    experiment = Run(folder).load_experiment()
    data = make_image_dataset(experiment.data, experiment.seed)
    return np.concatenate([batch["image"] for batch in data.evaluation(split)])


@pytest.fixture(scope="module")
def own_runs(tiny_runs, tmp_path_factory):
    """Copies of the runs, because statistics are saved in a run."""
    folder = tmp_path_factory.mktemp("own")
    return {name: shutil.copytree(path, folder / name) for name, path in tiny_runs.items()}


# Reconstruction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["vit_vqgan", "vim"])
def test_reconstruction_without_a_network(own_runs, run, stage):
    result = run("reconstruction", own_runs[stage], "--batch-size", "4")
    figures = result["figures"]
    tokenizer = load_tokenizer(own_runs["vit_vqgan"])
    images = images_of(own_runs["vit_vqgan"])
    reconstruction = np.asarray(tokenizer(images))
    tokens = np.asarray(tokenizer.tokenize(images))
    error = (reconstruction.astype("float64") - images) / 2
    psnr = np.mean([-10 * np.log10(np.mean(e**2)) for e in error])
    share = np.bincount(tokens.ravel(), minlength=16) / tokens.size
    expected = {
        "PSNR": psnr,
        "SSIM": np.mean(ssim((images + 1) / 2, (reconstruction + 1) / 2)),
        "l1": np.mean(np.abs(error)),
        "l2": np.mean(error**2),
        "codebook usage": np.mean(share > 0),
        "perplexity": np.exp(-np.sum(share[share > 0] * np.log(share[share > 0]))),
        "dead codes": np.sum(share == 0),
        "logit-laplace": logit_laplace(tokenizer, images),
        "gradient energy": energy(reconstruction) / energy(images),
    }
    assert figures == pytest.approx(expected, rel=1e-4)
    assert result["missing"] == {
        "LPIPS": "its weights are not given; give lpips",
        # Each patch of the tiny images has one colour.
        "seam excess": "neighbouring pixels of the originals never differ inside a patch",
    }
    assert "lpips" not in result["settings"]
    assert result["models"] == tokenizer.hashes()
    assert (result["extractor"], result["reference"]) == (None, None)


def energy(images):
    """Mean squared difference of neighbouring pixels, for images [B,16,16,3] in [-1,1]."""
    down = images[:, 1:].astype("float64") - images[:, :-1]
    across = images[:, :, 1:].astype("float64") - images[:, :, :-1]
    return np.mean([down**2, across.transpose(0, 2, 1, 3) ** 2]) / 4


def logit_laplace(tokenizer, images):
    """Of pixels x in [0,1]: density of a sigmoid of a Laplace variable, at 0.1 + 0.8 x; no ln 2."""
    _, mean, log_scale = tokenizer.decode_distribution(tokenizer.encode(images).codes)
    mean, log_scale = np.asarray(mean, "float64"), np.asarray(log_scale, "float64")
    log_scale = -5 + np.log1p(np.exp(log_scale + 5))
    y = 0.1 + 0.8 * (images + 1) / 2
    distance = np.abs(np.log(y / (1 - y)) - mean)
    nats = distance / np.exp(log_scale) + log_scale + np.log(y * (1 - y))
    return np.mean(nats) - np.log(0.8)  # dy = 0.8 dx


@pytest.mark.large
def test_pixels_without_a_density_have_no_logit_laplace(tiny, tmp_path, run):
    experiment = tiny("vit_vqgan", "model.output=rgb", "losses.logit_laplace=0")
    folder = Run(tmp_path / "run")
    folder.start(experiment)
    tokenizer = ViTVQGAN(experiment.model, experiment.data.image_size)
    folder.save_preset(tokenizer.save_to_preset)
    result = run("reconstruction", folder.path)
    assert "logit-laplace" not in result["figures"]
    assert "rgb" in result["missing"]["logit-laplace"]


@pytest.mark.large
def test_reconstruction_with_lpips(own_runs, run, lpips_file):
    result = run("reconstruction", own_runs["vit_vqgan"], "--lpips", lpips_file, "--n", "5")
    images = images_of(own_runs["vit_vqgan"])[:5]
    reconstruction = np.clip(load_tokenizer(own_runs["vit_vqgan"])(images), -1, 1)
    distances = open_lpips(lpips_file)(images, reconstruction)
    assert result["figures"]["LPIPS"] == pytest.approx(np.mean(distances), rel=1e-4)
    assert "LPIPS" not in result["missing"]
    sha256 = hashlib.sha256(lpips_file.read_bytes()).hexdigest()
    assert result["settings"]["lpips"]["sha256"] == sha256
    assert result["settings"]["lpips"]["path"] == str(lpips_file)


def test_reconstruction_with_a_network(own_runs, run, classifier):
    path, features = classifier
    result = run("reconstruction", own_runs["vit_vqgan"], "--extractor", path)
    images = images_of(own_runs["vit_vqgan"])
    reconstruction = to_uint8(load_tokenizer(own_runs["vit_vqgan"])(images))
    expected = frechet(features(reconstruction), features(to_uint8(images)))
    figures = result["figures"]
    assert figures["rFID[colours]"] == pytest.approx(expected, rel=1e-4)
    assert {"PSNR", "IS[colours]", "KID[colours]", "precision[colours]"} <= set(figures)
    assert not any(name.startswith("sFID") for name in figures)
    assert result["reference"]["kind"] == "the run's validation images"
    assert result["images"]["kind"] == "reconstructions"
    assert result["images"]["count"] == result["reference"]["count"] == 10
    (card,) = result["model_index"]
    assert card["name"] == "vit_vqgan"
    (entry,) = card["results"]
    assert entry["task"] == {"type": "image-to-image"}
    assert entry["dataset"] == {"type": "folder", "name": "train"}
    assert {metric["name"]: metric["value"] for metric in entry["metrics"]} == figures
    types = [metric["type"] for metric in entry["metrics"]]
    assert {"psnr", "rfid", "codebook-usage"} <= set(types)


def test_the_first_n_of_a_split(own_runs, run, classifier):
    given = ["--split", "train", "--n", "12", "--metrics", "fid", "--extractor", classifier[0]]
    result = run("reconstruction", own_runs["vit_vqgan"], *given)
    assert result["reference"]["count"] == 12
    images = images_of(own_runs["vit_vqgan"], "train")[:12]
    error = (np.asarray(load_tokenizer(own_runs["vit_vqgan"])(images)) - images) / 2
    assert result["figures"]["l1"] == pytest.approx(np.mean(np.abs(error)), rel=1e-4)


def test_images_that_have_moved(own_runs, run, tiny_images, tmp_path):
    moved = shutil.copytree(tiny_images, tmp_path / "moved")
    places = [f"data.path={moved}/train", f"data.validation_path={moved}/validation"]
    result = run("reconstruction", own_runs["vit_vqgan"], "--set", *places)
    assert result["images"]["count"] == 10
    assert result["images"]["path"] == f"{moved}/train"
    places = [f"data.path={moved}/train", f"data.validation_path={moved}/train"]
    with pytest.raises(UserError, match="was made from other images: 10 validation images then"):
        run("reconstruction", own_runs["vit_vqgan"], "--set", *places, out="y.json")
    places = ["--other-images", "--set", *places]
    result = run("reconstruction", own_runs["vit_vqgan"], *places, out="y.json")
    assert result["images"]["count"] == 24


# Generation ---------------------------------------------------------------------------------------


def test_generation(own_runs, run, classifier):
    path, features = classifier
    given = ["--n", "11", "--seed", "3", "--temperature", "0.9", "--guidance-scale", "1.5"]
    result = run("generation", own_runs["vim"], *given, "--extractor", path, "--batch-size", "4")
    generator = ImageGenerator.load(own_runs["vim"])
    samples = generator.generate(np.arange(11) % 2, seed=3, temperature=0.9, guidance_scale=1.5)
    reference = features(to_uint8(images_of(own_runs["vim"])))
    expected = frechet(features(samples), reference)
    assert result["figures"]["gFID[colours]"] == pytest.approx(expected, rel=1e-4)
    described = result["images"]
    assert described["label_mode"] == "balanced"
    assert (described["seed"], described["temperature"], described["top_k"]) == (3, 0.9, 0)
    assert (described["guidance_scale"], described["count"]) == (1.5, 11)
    assert result["models"] == generator.hashes()
    assert "label mode balanced, seed 3, temperature 0.9" in result["markdown"]


def test_generation_with_another_decoder(own_runs, tiny_decoder, run, classifier):
    path, features = classifier
    given = ["--n", "10", "--metrics", "fid", "--extractor", path, "--decoder", str(tiny_decoder)]
    result = run("generation", own_runs["vim"], *given)
    generator = ImageGenerator.load(own_runs["vim"], tiny_decoder)
    samples = features(generator.generate(np.arange(10) % 2))
    expected = frechet(samples, features(to_uint8(images_of(own_runs["vim"]))))
    assert result["figures"]["gFID[colours]"] == pytest.approx(expected, rel=1e-4)
    assert result["models"] == generator.hashes()
    own = ImageGenerator.load(own_runs["vim"]).hashes()
    assert {name for name in own if own[name] != result["models"][name]} == {"decoder"}


@pytest.mark.large
def test_generation_against_other_images(own_runs, run, classifier, tmp_path):
    path, features = classifier
    generator = ImageGenerator.load(own_runs["vim"])
    given = ["--n", "8", "--label-mode", "unconditional", "--extractor", path, "--metrics", "fid"]
    given += ["--top-k", "4", "--top-p", "0.9"]
    samples = features(generator.generate(n=8, top_k=4, top_p=0.9))
    train = to_uint8(images_of(own_runs["vim"], "train"))
    result = run("generation", own_runs["vim"], *given, "--split", "train")
    assert result["figures"]["gFID[colours]"] == pytest.approx(
        frechet(samples, features(train)), rel=1e-4
    )
    np.savez(tmp_path / "b.npz", train[:9])
    result = run(
        "generation", own_runs["vim"], *given, "--reference", tmp_path / "b.npz", out="y.json"
    )
    assert result["figures"]["gFID[colours]"] == pytest.approx(
        frechet(samples, features(train[:9])), rel=1e-4
    )
    assert result["reference"]["kind"] == "npz"
    assert result["model_index"][0]["results"][0]["dataset"] == {"type": "npz", "name": "b.npz"}
    assert result["model_index"][0]["results"][0]["task"]["type"].startswith("unconditional-image")


@pytest.mark.large
def test_generation_of_samples_that_a_classifier_kept(
    own_runs, run, classifier, tiny_classifier, tmp_path
):
    path, features = classifier
    given = ["--n", "8", "--extractor", path, "--metrics", "fid", "--seed", "5"]
    kept = ["--reject", tiny_classifier, "--acceptance", "0.5"]
    result = run("generation", own_runs["vim"], *given, *kept)
    generator = ImageGenerator.load(own_runs["vim"])
    judge = open_classifier(tiny_classifier, "--reject")
    tokens = accept(generator, judge, np.arange(8) % 2, 0.5, seed=5).tokens
    expected = frechet(features(generator.decode(tokens)), features(images_of_8_bits(own_runs)))
    assert result["figures"]["gFID[colours]"] == pytest.approx(expected, rel=1e-4)
    images = result["images"]
    assert (images["acceptance"], images["acceptance_rate"]) == (0.5, 0.5)
    assert images["rejected_by"] == judge.sha256


@pytest.mark.large
@pytest.mark.parametrize("kind", ["reconstruction", "generation"])
def test_replicas_share_the_work(
    own_runs, run, classifier, tiny_classifier, lpips_file, kind, two_replicas, monkeypatch
):
    """Two replicas share batches of odd size. The figures stay the same."""
    given = ["--n", "9", "--batch-size", "5", "--extractor", classifier[0], "--metrics", "fid,kid"]
    if kind == "reconstruction":
        given += ["--lpips", lpips_file]
    else:
        given += ["--reject", tiny_classifier, "--acceptance", "0.8"]
    alone = run(kind, own_runs["vim"], *given, out="alone.json")
    asked = []
    monkeypatch.setattr(
        strategies, "make_strategy", lambda **given: asked.append(given) or two_replicas
    )
    shared = run(kind, own_runs["vim"], *given, "--strategy", "mirrored", "--cpu-replicas", "2")
    assert asked == [{"strategy": "mirrored", "cpu_replicas": 2}]
    assert shared["figures"] == pytest.approx(alone["figures"], rel=1e-4)
    assert shared["images"] == alone["images"]  # also their hashes


@pytest.mark.large
def test_logical_cpus_from_the_command_line(own_runs, tmp_path):
    """In a separate process, because a process can have only one such strategy."""
    given = ["--run", own_runs["vit_vqgan"], "--strategy", "mirrored", "--cpu-replicas", "2"]
    command = [sys.executable, "-m", "vim_tf.evaluate", "reconstruction", *given, "--out", "x.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "x.json").read_text())["figures"]
    images = images_of(own_runs["vit_vqgan"])
    error = np.abs(np.asarray(load_tokenizer(own_runs["vit_vqgan"])(images)) - images) / 2
    assert figures["l1"] == pytest.approx(np.mean(error), rel=1e-4)


def images_of_8_bits(own_runs):
    return to_uint8(images_of(own_runs["vim"]))


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "stage", "arguments", "message"),
    [
        ("generation", "vim", [], "no feature network is given"),
        ("generation", "vim", ["--extractor", "x.pb"], "x.pb, which does not exist"),
        ("reconstruction", "vim", ["--metrics", "fid"], "need a network: give extractor"),
        (
            "reconstruction",
            "vim",
            ["--n", "11"],
            "n is 11, but the run's validation data hold 10",
        ),
        ("reconstruction", "vim", ["--n", "0"], "--n is 0; it must be 1 or more"),
        ("reconstruction", "vim", ["--lpips", "vgg.pth"], "lpips is vgg.pth, which is no file"),
        ("reconstruction", "vim", ["--batch-size", "0"], "--batch-size is 0"),
        ("reconstruction", "vim", ["--cpu-replicas", "65"], "--cpu-replicas is 65; at most 64"),
        ("reconstruction", "vim", ["--cpu-replicas", "0"], "--cpu-replicas is 0"),
        (
            "reconstruction",
            "vim",
            ["--set", "model.patch_size=8"],
            "would change the trained model",
        ),
        ("generation", "vim", ["CLASSIFIER", "--n", "7"], "fid of 7 samples with 4 features"),
        ("generation", "vim", ["CLASSIFIER", "--n", "9", "--top-p", "0"], "top_p is 0"),
        ("generation", "vim", ["CLASSIFIER", "--metrics", "sfid"], "colours.keras has none"),
        ("generation", "vit_vqgan", ["CLASSIFIER"], "run of stage 1, which generates nothing"),
        (
            "generation",
            "vim",
            ["CLASSIFIER", "--n", "9", "--reject", "x", "--acceptance", "0.5"],
            "reject is x, which is no classifier",
        ),
        ("generation", "vim", ["CLASSIFIER", "--n", "9", "--reject", "x"], "give both or neither"),
        ("reconstruction", "vim", ["CLASSIFIER", "--extractor-hash", "0"], "not 0 as extractor_"),
    ],
)
def test_mistakes_are_one_line(
    own_runs, run, classifier, tmp_path, kind, stage, arguments, message
):
    if "CLASSIFIER" in arguments:
        given = [arg for arg in arguments if arg != "CLASSIFIER"]
        arguments = [*given, "--extractor", classifier[0]]
        if "--metrics" not in given:
            arguments += ["--metrics", "fid"]
    with pytest.raises(UserError, match=message) as caught:
        run(kind, own_runs[stage], *arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.json").exists()


def test_the_result_is_never_written_over_a_file(own_runs, run, tmp_path):
    (tmp_path / "x.json").write_text("mine")
    with pytest.raises(UserError, match="x.json exists; delete it"):
        run("reconstruction", own_runs["vim"])
    assert (tmp_path / "x.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.txt"], "error: --out is x.txt; give a file name that ends in .json\n"),
        (["--out", "no/x.json"], "error: --out is no/x.json, but the folder no does not exist"),
        (["--out", "x.json", "--n", "0"], "error: --n is 0; it must be 1 or more\n"),
        (["--out", "x.json", "--image-size", "8x"], "8x is neither 256 nor 256x192"),
        (["--out", "x.json", "--resize", "best"], "invalid choice: 'best'"),
    ],
)
def test_arguments_are_checked_at_once(arguments, message, tmp_path):
    code = (
        "import sys\nfrom vim_tf import command_line, evaluate\n"
        "try:\n    command_line.run(evaluate.main)\n"
        "finally:\n    assert 'tensorflow' not in sys.modules\n"
    )
    given = [sys.executable, "-c", code, "images", "--images", "a", "--reference", "b", *arguments]
    result = subprocess.run(given, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
