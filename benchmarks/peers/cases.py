"""The peers' work: each case is a function of settings -> (a call without arguments, about).

`about` describes the case. Weights are fresh. Each case checks its answer once, so that an empty
answer is never timed. Cases run on CUDA if it is there, otherwise on the CPU.
"""

import importlib.metadata
import sys
from unittest import mock

import torch
from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTModel, logging
from vector_quantize_pytorch import VectorQuantize

# parti-pytorch needs torchvision only for data and losses, which are not timed. PyPI's torchvision
# does not load with a torch without CUDA, and transformers would find it.
MISSING = ("torchvision", *(f"torchvision.{part}" for part in ("datasets", "transforms", "utils")))
with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in MISSING}):
    from parti_pytorch import VitVQGanVAE

logging.set_verbosity_error()
torch.manual_seed(0)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {"float32": torch.float32, "mixed_bfloat16": torch.bfloat16}


def _without_gradients(function, autocast="float32"):
    dtype = DTYPES[autocast]

    def call():
        with (
            torch.inference_mode(),
            torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32),
        ):
            answer = function()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return answer

    return call


def _looked_at(package, what, call, shape):
    """Returns the case after a check of its answer's shape and values."""
    found = call()
    if tuple(found.shape) != tuple(shape) or not bool(torch.isfinite(found.float()).all()):
        raise ValueError(f"{what} answers {tuple(found.shape)}, expected {shape} finite numbers")
    version = importlib.metadata.version(package)
    return call, {"name": f"{what} ({package} {version})", "threads": torch.get_num_threads()}


def _ready(model, precision):
    return model.eval().to(DEVICE, DTYPES[precision])


def _images(batch, image_size, precision):
    images = torch.rand(batch, 3, image_size, image_size) * 2 - 1
    return images.to(DEVICE, DTYPES[precision])


def vit(dim, blocks, heads, mlp_dim, image_size, patch_size, batch, precision):
    """The plain Vision Transformer of transformers, attention by SDPA: embedding and blocks."""
    config = ViTConfig(
        hidden_size=dim,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=mlp_dim,
        image_size=image_size,
        patch_size=patch_size,
        attn_implementation="sdpa",
    )
    model = _ready(ViTModel(config, add_pooling_layer=False), precision)
    images = _images(batch, image_size, precision)
    call = _without_gradients(lambda: model(images).last_hidden_state)
    tokens = (image_size // patch_size) ** 2 + 1
    return _looked_at("transformers", "ViTModel", call, (batch, tokens, dim))


def _parti(dim, blocks, heads, mlp_dim, image_size, patch_size, codes, code_dim):
    return (
        VitVQGanVAE(
            dim=dim,
            image_size=image_size,
            layers=blocks,
            encdec_patch_size=patch_size,
            encdec_heads=heads,
            encdec_dim_head=dim // heads,
            encdec_ff_mult=mlp_dim // dim,
            lookup_free_quantization=False,
            codebook_size=codes,
            vq_codebook_dim=code_dim,
            vq_kmeans_init=False,
            use_vgg_and_gan=False,
        )
        .eval()
        .to(DEVICE)
    )  # its quantizer takes float32 only


def parti_tokenize(batch, image_size, precision, **sizes):
    """parti-pytorch's ViT-VQGAN with a codebook: images -> tokens."""
    model = _parti(image_size=image_size, **sizes)
    images = _images(batch, image_size, "float32")
    call = _without_gradients(lambda: model.encode(images)[1], precision)
    side = image_size // sizes["patch_size"]
    return _looked_at("parti-pytorch", "VitVQGanVAE", call, (batch, side, side))


def parti_decode(batch, image_size, precision, **sizes):
    """parti-pytorch's decoder: codes of its encoder's width -> images."""
    model = _parti(image_size=image_size, **sizes)
    side = image_size // sizes["patch_size"]
    codes = torch.randn(batch, sizes["dim"], side, side, device=DEVICE)
    call = _without_gradients(lambda: model.decode(codes), precision)
    return _looked_at("parti-pytorch", "VitVQGanVAE", call, (batch, 3, image_size, image_size))


def quantize(dim, code_dim, codes, vectors):
    """vector-quantize-pytorch with a factorised, l2-normalised codebook: features -> tokens."""
    layer = VectorQuantize(dim=dim, codebook_dim=code_dim, codebook_size=codes, use_cosine_sim=True)
    layer = layer.eval().to(DEVICE)
    features = torch.randn(1, vectors, dim, device=DEVICE)
    call = _without_gradients(lambda: layer(features)[1])
    return _looked_at("vector-quantize-pytorch", "VectorQuantize", call, (1, vectors))


def sample(dim, blocks, heads, mlp_dim, codes, tokens, batch, cache, precision):
    """`generate` of transformers' GPT-2: draws tokens after a given first token."""
    config = GPT2Config(
        vocab_size=codes,
        n_positions=tokens + 1,
        n_embd=dim,
        n_layer=blocks,
        n_head=heads,
        n_inner=mlp_dim,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = _ready(GPT2LMHeadModel(config), precision)
    first = torch.zeros(batch, 1, dtype=torch.long, device=DEVICE)
    more = {"cache_implementation": "static"} if cache == "static" else {}

    def generate():
        return model.generate(
            first,
            attention_mask=torch.ones_like(first),
            do_sample=True,
            top_k=0,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            **more,
        )

    call = _without_gradients(generate)
    name = f"GPT2LMHeadModel.generate, {cache} cache"
    return _looked_at("transformers", name, call, (batch, tokens + 1))
