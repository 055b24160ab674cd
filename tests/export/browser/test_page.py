"""The page in a real headless Chromium, with WebGL and with WebAssembly."""

import json
import shutil
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

from vim_tf.data.transforms import to_uint8
from vim_tf.export.browser import tfjs

OPENED = [["wait", "main:not([hidden])"], ["settle"]]


def pixels(answer, run):
    return np.asarray(answer, "uint8").reshape(*run.tokenizer.image_size, 3)


def decode(run, tokens):
    """The float32 images that Keras decodes from token grids."""
    return np.asarray(run.tokenizer.decode_tokens(np.asarray(tokens, "int32")))


def assert_shown(answer, run, tokens):
    """A canvas shows the image that Keras decodes, up to one level where rounding differs."""
    levels = np.abs(pixels(answer, run).astype(int) - to_uint8(decode(run, [tokens]))[0])
    assert levels.max() <= 1
    assert np.mean(levels.max(-1) > 0) < 0.01


def best_change(run, tokens):
    """(cell, code) of the most visible of some changes."""
    cells = range(0, len(tokens), 3)
    codes = run.tokenizer.config.quantizer.codes
    changes = [(cell, code) for cell in cells for code in range(codes) if code != tokens[cell]]
    grids = np.repeat([tokens], len(changes), axis=0)
    for row, (cell, code) in enumerate(changes):
        grids[row, cell] = code
    difference = np.abs(decode(run, grids) - decode(run, [tokens])).max(axis=(1, 2, 3))
    assert difference.max() > 4 / 255  # two levels: more than rounding
    return changes[int(np.argmax(difference))]


@pytest.mark.large
@pytest.mark.parametrize("backend", ["webgl", "wasm"])
def test_chromium_decodes_as_keras(browse, run, about, backend):
    grids = about["examples"]
    answers = browse(
        [
            ["goto", f"?backend={backend}"],
            *OPENED,
            ["text", "speed", "#speed"],
            ["pixels", "image", "#image"],
            *[["decode", weights, grids, weights, backend] for weights in about["decoders"]],
        ]
    )
    assert answers["speed"].startswith(f"{backend} · ")
    assert answers["elsewhere"] == []
    assert_shown(answers["image"], run, grids[0])
    expected = decode(run, grids)
    errors = {}
    for weights in about["decoders"]:
        assert answers[weights]["backend"] == backend
        actual = np.asarray(answers[weights]["values"], "float32").reshape(expected.shape)
        errors[weights] = np.abs(actual - expected).max()
        if weights == "float32":
            levels = tfjs.compare_levels(expected, actual)
    assert errors["float32"] <= 1e-4
    assert levels["max_levels"] <= 1 and levels["off_pixels"] < 1e-3
    assert errors["float32"] < errors["float16"] < errors["uint8"] < 0.3


@pytest.mark.large
@pytest.mark.parametrize("backend", ["webgl", "wasm"])
def test_another_code_gives_another_image(browse, run, about, backend):
    base = about["examples"][1]
    cell, code = best_change(run, base)
    changed = [*base]
    changed[cell] = code
    button = f".cell >> nth={cell}"
    answers = browse(
        [
            ["goto", f"?backend={backend}"],
            *OPENED,
            ["click", ".example >> nth=1"],
            ["settle"],
            ["pixels", "before", "#image"],
            ["click", button],
            ["painted"],
            ["pixels", "swatch", f'.code[data-code="{code}"] canvas'],
            ["click", f'.code[data-code="{code}"]'],
            ["settle"],
            ["pixels", "after", "#image"],
            ["codes", "codes"],
            ["count", "marked", ".cell.changed"],
            ["attribute", "label", button, "aria-label"],
            ["text", "note", "#cell-note"],
            ["click", "#undo"],
            ["settle"],
            ["pixels", "undone", "#image"],
            ["count", "marked_after_undo", ".cell.changed"],
        ]
    )
    assert_shown(answers["before"], run, base)
    assert_shown(answers["after"], run, changed)
    assert np.max(np.abs(pixels(answers["after"], run) - pixels(answers["before"], run))) > 1
    assert answers["codes"] == changed
    assert (answers["marked"], answers["marked_after_undo"]) == (1, 0)
    row, column = divmod(cell, about["grid"][1])
    assert answers["label"] == f"row {row + 1}, column {column + 1}, code {code}, changed"
    assert f"code {code}, was {base[cell]}" in answers["note"]
    assert answers["undone"] == answers["before"]
    size = run.tokenizer.config.patch_size
    patch = pixels(answers["after"], run)[
        size * row : size * (row + 1), size * column : size * (column + 1)
    ]
    swatch = np.asarray(answers["swatch"]).reshape(size, size, 3)
    assert np.abs(swatch - patch.astype(int)).max() <= 1  # the same as when it is painted


@pytest.mark.large
def test_the_keyboard_and_a_phone_are_enough(browse, run, about):
    base = about["examples"][0]
    codes = run.tokenizer.config.quantizer.codes
    code = (base[5] + 1) % codes
    answers = browse(
        [
            ["goto", "?backend=wasm"],
            *OPENED,
            ["overflow", "overflow"],
            *[["press", "Tab"]] * 4,  # weights, backend, save, and the first token
            ["focused", "first"],
            ["press", "ArrowDown"],
            ["press", "ArrowRight"],
            ["focused", "moved"],
            ["press", "Enter"],
            ["focused", "picked"],
            ["press", "Shift+Tab"],
            *[["press", key] for key in "99"],
            ["press", "Enter"],
            ["text", "refused", "#picker-note"],
            ["fill", "#search", str(code)],
            ["press", "Enter"],
            ["settle"],
            ["press", "Escape"],
            ["focused", "returned"],
            ["codes", "codes"],
            ["click", "#reset"],
            ["settle"],
            ["codes", "reset"],
        ],
        width=360,
        height=800,
        dark=True,
    )
    assert answers["overflow"] == 0
    assert answers["first"] == f"row 1, column 1, code {base[0]}"
    assert answers["moved"] == f"row 2, column 2, code {base[5]}"
    assert answers["picked"] == f"Code {base[5]}"
    assert f"codes go from 0 to {codes - 1}" in answers["refused"]
    assert answers["codes"] == [*base[:5], code, *base[6:]]
    assert answers["returned"] == f"row 2, column 2, code {code}, changed"
    assert answers["reset"] == base


# A server ---------------------------------------------------------------------------------------


@pytest.fixture
def serving(serve):
    """A function (answer, status=200) -> (address, requests) of a server instead of TF Serving.

    Every request gets the same answer; requests lists (path, body).
    """

    def start(answer, status=200):
        requests = []

        class Rest(BaseHTTPRequestHandler):
            def do_OPTIONS(self):  # the browser asks first, as the page is from another address
                self.reply(200, b"")

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                requests.append((self.path, json.loads(body)))
                self.reply(status, json.dumps(answer).encode())

            def reply(self, code, body):
                self.send_response(code)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Access-Control-Allow-Headers", "Content-Type")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return serve(Rest), requests

    return start


GENERATED = [["wait", "#generate-note >> text=Generated in"], ["settle"]]


@pytest.mark.large
def test_the_form_asks_tf_serving_and_shows_its_tokens(browse, serving, run, about):
    tokens = about["examples"][2][::-1]  # a grid that is not in the page
    image_bytes = [{"b64": ""}]
    outputs = {"tokens": [tokens], "image_bytes": image_bytes, "error": [""]}
    address, requests = serving({"outputs": outputs})
    answers = browse(
        [
            ["goto", "?backend=wasm"],
            *OPENED,
            ["shown", "form_before", "#generate"],
            ["fill", "#address", f"{address.removeprefix('http://')}/"],
            ["select", "[name=label]", "red"],
            ["fill", "[name=seed]", "4294967295"],
            ["fill", "[name=temperature]", "0.7"],
            ["fill", "[name=top_k]", "5"],
            ["fill", "[name=top_p]", "0.95"],
            ["fill", "[name=guidance_scale]", "2.5"],
            ["click", "#generate button"],
            *GENERATED,
            ["codes", "codes"],
            ["count", "marked", ".cell.changed"],
            ["pixels", "image", "#image"],
        ]
    )
    inputs = {
        "label": [1],
        "seed": [4294967295],
        "temperature": [0.7],
        "top_k": [5],
        "top_p": [0.95],
        "guidance_scale": [2.5],
    }
    body = {"signature_name": "generate", "inputs": inputs}
    assert requests == [("/v1/models/vim:predict", body)]
    assert not answers["form_before"]
    assert answers["codes"] == tokens
    assert answers["marked"] == 0
    assert_shown(answers["image"], run, tokens)
    assert set(answers["elsewhere"]) == {f"{address}/v1/models/vim:predict"}


@pytest.mark.large
def test_a_model_without_labels_is_asked_without(browse, serving, exported, about, tmp_path):
    folder = tmp_path / "unlabelled"
    shutil.copytree(exported[0], folder)
    (folder / tfjs.EXAMPLES_FILE).write_text(json.dumps(about | {"class_names": []}))
    outputs = {"tokens": [about["examples"][1]], "error": [""]}
    address, requests = serving({"outputs": outputs})
    answers = browse(
        [
            ["goto", "?backend=wasm"],
            *OPENED,
            ["fill", "#address", address],
            ["shown", "label", "[name=label]"],
            ["shown", "seed", "[name=seed]"],
            ["click", "#generate button"],
            *GENERATED,
        ],
        folder,
    )
    inputs = {"seed": [1], "temperature": [1.0], "top_k": [0], "top_p": [1.0]}
    assert requests[0][1] == {"signature_name": "generate", "inputs": inputs}
    assert (answers["label"], answers["seed"]) == (False, True)


@pytest.mark.large
def test_what_went_wrong_is_told_in_words(browse, serving, exported, about, tmp_path):
    refusing, _ = serving({"outputs": {"tokens": [[-1]], "error": ["label is 9; it must be 0"]}})
    failing, _ = serving({"error": "Servable not found for request: Latest(vim)"}, 404)
    other, _ = serving({"outputs": {"tokens": [[0, 1, 2]], "error": [""]}})
    addresses = {
        "refusing": (refusing, "TF Serving refused: label is 9; it must be 0"),
        "failing": (failing, "TF Serving answered 404: Servable not found for request"),
        "other": (other, "gives 3 tokens, which are no grid of 4 x 4 codes from 0 to 15"),
        "nobody": ("http://127.0.0.1:9", "rest_api_enable_cors_support"),
        "no_address": ("http://", "http:// is no address; write something like http://localhost"),
    }
    steps = [["goto", "?backend=wasm"], *OPENED]
    for name, (address, _) in addresses.items():
        steps += [
            ["fill", "#address", address],
            ["click", "#generate button"],
            ["wait", "#generate button:enabled"],
            ["wait", "#generate-note.bad"],
            ["text", name, "#generate-note"],
        ]
    # Chromium itself logs the 404 and the closed port.
    answers = browse([*steps, ["codes", "codes"]], expect_problems=2)
    for name, (_, words) in addresses.items():
        assert words in answers[name], name
    assert answers["codes"] == about["examples"][0]

    broken = tmp_path / "broken"
    shutil.copytree(exported[0], broken)
    shutil.rmtree(broken / tfjs.decoder_folder("uint8"))
    text = json.dumps(about | {"generates": False})
    (broken / tfjs.EXAMPLES_FILE).write_text(text)
    answers = browse(
        [
            ["goto", "?backend=wasm"],
            *OPENED,
            ["shown", "no_vim", "#no-vim"],
            ["shown", "serving", "#serving"],
            ["select", "#weights", "uint8"],
            ["wait", "#error:not([hidden])"],
            ["text", "error", "#error-text"],
            ["settle"],
            ["shown", "still_told", "#error"],
            ["value", "weights", "#weights"],
            ["select", "#weights", "float16"],
            ["settle"],
            ["shown", "told_of_good_ones", "#error"],
        ],
        broken,
        expect_problems=1,
    )
    assert "decoder_uint8/model.json cannot be loaded" in answers["error"]
    assert answers["weights"] == "float32"  # back to working settings
    assert (answers["still_told"], answers["told_of_good_ones"]) == (True, False)
    assert (answers["no_vim"], answers["serving"]) == (True, False)
