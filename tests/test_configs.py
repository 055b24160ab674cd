"""Every YAML file of configs/ loads, builds and states its cost; the code reads every key."""

import ast
import dataclasses
import functools
import re
from pathlib import Path

import keras
import pytest
import yaml

import vim_tf
from vim_tf.config import loss_sections, sections
from vim_tf.config.experiments import EXPERIMENTS, VIMExperiment, ViTVQGANExperiment
from vim_tf.config.loader import load_config
from vim_tf.costs.memory import estimate_vim, estimate_vit_vqgan
from vim_tf.costs.parameters import count_discriminator, count_vit_vqgan
from vim_tf.costs.parameters import count_vim as count_vim_from_config
from vim_tf.models.discriminator import Discriminator
from vim_tf.models.vim import VIM
from vim_tf.models.vit_vqgan import ViTVQGAN

ROOT = Path(__file__).parents[1]
FILES = {
    path.relative_to(ROOT / "configs").with_suffix("").as_posix(): path
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
}
CONFIGS = {name: load_config([path]) for name, path in FILES.items()}
STAGE_1 = [name for name, config in CONFIGS.items() if isinstance(config, ViTVQGANExperiment)]
STAGE_2 = [name for name, config in CONFIGS.items() if isinstance(config, VIMExperiment)]

# The paper's millions of parameters (table 2 and section 4.2), by width and blocks.
PAPERS = {(512, 8): 32, (768, 12): 91, (1280, 32): 599, (1536, 24): 650, (2048, 36): 1697}


@pytest.fixture(autouse=True)
def zeros_instead_of_noise(monkeypatch):
    """Drawing hundreds of millions of weights would take most of the time; no test needs them."""
    monkeypatch.setattr(
        keras.initializers.TruncatedNormal,
        "__call__",
        lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype),
    )


def with_blocks(transformer, blocks):
    return dataclasses.replace(transformer, blocks=blocks)


def extrapolate(one, two, blocks):
    return one + (blocks - 1) * (two - one)


@functools.cache
def count_tokenizer(config, image_size):
    """Parameters of encoder, quantizer and decoder, from builds with one and two blocks."""
    counts = []
    for blocks in (1, 2):
        small = dataclasses.replace(
            config,
            encoder=with_blocks(config.encoder, blocks),
            decoder=with_blocks(config.decoder, blocks),
        )
        model = ViTVQGAN(small, image_size)
        parts = (model.encoder, model.quantizer, model.decoder)
        counts.append([part.count_params() for part in parts])
    blocks = (config.encoder.blocks, 1, config.decoder.blocks)
    return [extrapolate(*pair, n) for *pair, n in zip(*counts, blocks, strict=True)]


@functools.cache
def count_vim(config, grid, codes, classes):
    one, two = (
        VIM(
            dataclasses.replace(config, transformer=with_blocks(config.transformer, blocks)),
            grid,
            codes,
            classes,
        ).count_params()
        for blocks in (1, 2)
    )
    return extrapolate(one, two, config.transformer.blocks)


def transformer_parameters(size):
    """Attention has no bias on queries, keys and values. Two norms have scale and offset."""
    dim, mlp_dim = size.dim, size.mlp_dim
    attention = 3 * dim * dim + dim * dim + dim
    mlp = dim * mlp_dim + mlp_dim + mlp_dim * dim + dim
    return size.blocks * (attention + mlp + 2 * 2 * dim)


def beside_the_papers(label, size, parameters):
    """Prints the count; returns its ratio to the paper's count if the paper has one."""
    papers = PAPERS.get((size.dim, size.blocks)) if "_256/" in label else None
    print(f"{label}: {parameters / 1e6:.1f}M parameters", end="")
    print(f"; the paper: {papers}M" if papers else "")
    return parameters / 1e6 / papers if papers else None


def tokenizer_of(name):
    """The stage-1 config of the run that a stage-2 config reads."""
    run = CONFIGS[name].tokenizer.run
    assert run.startswith("runs/"), run
    return run.removeprefix("runs/")


def test_the_papers_models_are_there():
    expected = {
        *(f"imagenet_256/vit_vqgan_{name}" for name in ("ss", "bb", "sl", "ss_no_perceptual")),
        *(f"imagenet_256/vim_{name}" for name in ("base", "large")),
        "imagenet_256/vim_base_unconditional",
        "imagenet_256/vim_large_unconditional_no_dropout",
        *(
            f"{data}/{model}"
            for data in ("celeba_hq_256", "ffhq_256")
            for model in ("vit_vqgan", "vim")
        ),
    }
    assert expected <= set(FILES)


PAPERS_CONFIGS = [name for name in FILES if "_256/" in name]


@pytest.mark.parametrize("name", PAPERS_CONFIGS)
def test_the_header_of_a_paper_config_has_the_models_counts(name):
    """Ours next to the paper's, in millions."""
    config, text = CONFIGS[name], FILES[name].read_text()
    (line,) = re.findall("^# Parameters: .*", text, re.MULTILINE)
    if name in STAGE_1:
        counts = count_vit_vqgan(config.model, config.data.image_size)
        discriminator = sum(count_discriminator(config.discriminator, config.data.image_size))
        counts = {**counts, "discriminator": discriminator}
        for part in ("encoder", "decoder", "discriminator"):
            assert f"{part} {counts[part] / 1e6:.1f}M" in line
        sizes = {config.model.encoder, config.model.decoder}
    else:
        tokenizer = CONFIGS[tokenizer_of(name)]
        codes, classes = tokenizer.model.quantizer.codes, 1000 if "imagenet" in name else 0
        count = count_vim_from_config(config.model, tokenizer.grid, codes, classes)
        assert f"Parameters: {count / 1e6:.0f}M" in line
        sizes = {config.model.transformer}
    assert "paper" in line
    for size in sizes:
        assert f"{PAPERS[size.dim, size.blocks]}M" in line


@pytest.mark.parametrize("name", FILES)
def test_the_header_tells_command_and_outcome(name):
    text = FILES[name].read_text()
    assert len(text.splitlines()) <= 30
    header = text[: text.index("experiment:")]
    assert all(line.startswith("# ") for line in header.splitlines())
    assert f"python -m vim_tf.train --config configs/{name}.yaml" in header
    assert re.search("not run|measured", header, re.IGNORECASE)
    assert re.search("expected|measured", header, re.IGNORECASE)


@pytest.mark.parametrize("name", STAGE_1)
def test_tokenizers_build(name):
    config = CONFIGS[name]
    model = config.model
    encoder, quantizer, decoder = count_tokenizer(model, config.data.image_size)
    for label, size, parameters in (
        ("encoder", model.encoder, encoder),
        ("decoder", model.decoder, decoder),
    ):
        ratio = beside_the_papers(f"{name} {label}", size, parameters)
        # In the paper, the large coder has fewer parameters than the sizes of its table give, and
        # the small one has more.
        assert ratio is None or 0.75 < ratio < 1.1
        outside = parameters - transformer_parameters(size)
        assert 0 < outside
    dim, code_dim = model.encoder.dim, model.quantizer.code_dim
    assert quantizer == dim * code_dim + code_dim + model.quantizer.codes * code_dim


@pytest.mark.parametrize("name", STAGE_2)
def test_vims_build(name):
    config, tokenizer = CONFIGS[name], CONFIGS[tokenizer_of(name)]
    codes, grid, size = tokenizer.model.quantizer.codes, tokenizer.grid, config.model.transformer
    classes = (1000 if "imagenet" in name else 10) if config.model.conditional else 0
    count = count_vim(config.model, grid, codes, classes)
    ratio = beside_the_papers(name, size, count)
    assert ratio is None or 1 < ratio < 1.1
    embeddings = (codes + classes + 1 + sum(grid)) * size.dim
    norm_and_head = 2 * size.dim + size.dim * codes + codes
    assert count == transformer_parameters(size) + embeddings + norm_and_head


@pytest.mark.parametrize("name", STAGE_2)
def test_both_stages_see_the_same_images(name):
    ours, tokenizers = CONFIGS[name].data, CONFIGS[tokenizer_of(name)].data
    for field in ("source", "path", "name", "split", "image_size", "validation_split"):
        assert getattr(ours, field) == getattr(tokenizers, field), field


@pytest.mark.parametrize(
    ("config", "image_size"),
    {
        (config.discriminator, config.data.image_size)
        for config in map(CONFIGS.get, STAGE_1)
        if config.losses.adversarial
    },
)
def test_discriminators_build(config, image_size):
    model = Discriminator(config, image_size)
    model.build()
    assert model.count_params() > 0


def read_attributes():
    """Names of the attributes that code outside the config package reads, also by getattr."""
    names = set()
    for path in Path(vim_tf.__file__).parent.rglob("*.py"):
        if path.parent.name == "config":
            continue
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and "getattr(" in text:
                names.add(node.value)
    return names


@pytest.mark.parametrize(
    "cls",
    [
        cls
        for cls in [
            *vars(sections).values(),
            *vars(loss_sections).values(),
            *EXPERIMENTS.values(),
        ]
        if dataclasses.is_dataclass(cls)
    ],
)
def test_every_knob_is_read(cls):
    assert {field.name for field in dataclasses.fields(cls)} <= read_attributes()


def unset_keys(cls, files, prefix=""):
    """Keys of a config class that no file sets. `files` are nested dicts."""
    for field in dataclasses.fields(cls):
        set_here = [file[field.name] for file in files if field.name in file]
        if dataclasses.is_dataclass(field.type):
            inner = [value for value in set_here if isinstance(value, dict)]
            if len(inner) == len(set_here):  # otherwise a preset's name sets all
                yield from unset_keys(field.type, inner, f"{prefix}{field.name}.")
        elif not set_here:
            yield prefix + field.name


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_each_key_that_no_config_sets_is_explained(experiment):
    """A knob exists only if somebody needs it: docs/config.md says who."""
    page = (ROOT / "docs" / "config.md").read_text()
    explained = set(re.findall(r"`([a-z_0-9.*]+)`", page))
    files = [yaml.safe_load(path.read_text()) for path in FILES.values()]
    unset = list(unset_keys(EXPERIMENTS[experiment], files))
    assert unset
    for key in unset:
        section = key.rpartition(".")[0]
        assert key in explained or f"{section}.*" in explained, key


@pytest.mark.parametrize("name", ["folder/vit_vqgan", "folder/vim"])
def test_the_template_for_a_folder_fits_into_the_memory_that_it_states(name):
    """Without a GPU the memory of the host counts. 24 GB is what a desktop computer has."""
    if name.endswith("vim"):
        tokenizer = CONFIGS["folder/vit_vqgan"].model
        estimate = estimate_vim(CONFIGS[name], tokenizer, classes=1_000, replicas=1)
    else:
        estimate = estimate_vit_vqgan(CONFIGS[name], replicas=1)
    stated = re.search(r"about ([\d.]+) GB of memory", FILES[name].read_text())
    assert estimate.configured / 1e9 == pytest.approx(float(stated[1]), abs=0.06)
    assert estimate.configured < 24e9 / 2
