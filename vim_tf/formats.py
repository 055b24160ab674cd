"""Formats of the files that vim_tf writes: their numbers, and the JSON documents.

Every such file has a `format` number and the version that wrote it. Raise the number here when the
meaning of a file changes. A file with another number is refused: until 0.1.0 is released, no code
reads the files of earlier commits.

A JSON document also has a checksum of its content, so that a flipped bit is never read as a value.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vim_tf.annotations import StrPath
from vim_tf.errors import DamagedError, UserError
from vim_tf.files import open_regular
from vim_tf.messages import shorten
from vim_tf.versions import VERSION

# Number 1 had no checksums and no fingerprints of images. In runs of number 2 the weights of the VQ
# terms were those of sums over the code's dimensions. Up to number 3 of runs, colour profiles were
# ignored, copies could be on both sides of the split, and classes were in the order of their
# characters; the position of the data was a number of steps. Before number
# 5 of checkpoints, 4 of presets, token caches, features and exports, and 3 of probes, one hash was
# of the whole tokenizer; now one is of its tokens and one of its decoder.
NUMBERS = {
    "run": 4,  # <run>/config.yaml, and the meaning of its keys
    "checkpoint": 5,  # manifest.json, best.json, and the state next to them
    "preset": 4,  # config.json, metadata.json, and the weights next to them
    "token cache": 4,  # header.json and the shards
    "features": 4,  # complete.json and the arrays of a probe's features
    "probe": 3,  # probe.json
    "statistics": 3,  # statistics of a reference, kept for later runs
    "styles": 1,  # styles.json and the records of data.source: styles
    "export": 4,  # generator.json, protocol.json and SHA256SUMS
}
WRITTEN_BY = f"vim_tf {VERSION}"
MOST_BYTES = 2**26  # of a JSON document; the largest, the header of a cache, names its classes
_SEAL = ("format", "written_by", "checksum")


def to_json(kind: str, content: Mapping[str, Any]) -> str:
    """Returns the text of a JSON document with its format, its writer and its checksum.

    Args:
        kind: one of `NUMBERS`.
        content: a dict for JSON, without the keys "format", "written_by", "checksum".
    """
    document = {"format": NUMBERS[kind], "written_by": WRITTEN_BY, **content}
    document = json.loads(json.dumps(document))  # with the types that a reader will get
    return json.dumps({**document, "checksum": _checksum(document)}, indent=1) + "\n"


def read_json(
    path: StrPath, kind: str, advice: str, schema: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Reads a document that `to_json` made.

    Args:
        path: the file, on a disk or in a bucket.
        kind: one of `NUMBERS`.
        advice: what the user can do if the file cannot be used; part of the error.
        schema: JSON Schema of the content, for example of `json_object`; None: no such check.

    Returns:
        The content, a dict without format, writer and checksum.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it was changed or cut short after it was written, or is no such document.
        UserError: it has another format, is too large, or cannot be read.
    """
    document = _parse(_read(path), path, advice)
    unsealed = {key: value for key, value in document.items() if key != "checksum"}
    if "checksum" in document:
        if document["checksum"] != _checksum(unsealed):
            raise DamagedError(
                f"{path} is damaged: its checksum does not fit its content; {advice}"
            )
        check_format(path, kind, document.get("format"), document.get("written_by"), advice)
    else:
        check_format(path, kind, document.get("format"), document.get("written_by"), advice)
        raise DamagedError(f"{path} is damaged: it has no checksum; {advice}")
    content = {key: value for key, value in document.items() if key not in _SEAL}
    if schema is not None:
        check_schema(content, schema, path, advice)
    return content


def check_format(path: StrPath, kind: str, number: object, written_by: object, advice: str) -> None:
    """Raises UserError unless `number` is the present format of `kind`.

    Args:
        path: the file, for the error.
        kind: one of `NUMBERS`.
        number: the format that the file states, of any type; None if it states none.
        written_by: the writer that the file states.
        advice: what the user can do.
    """
    if type(number) is int and number == NUMBERS[kind]:
        return
    found = f"the format {shorten(str(number))}" if number is not None else "no format number"
    writer = shorten(str(written_by)) if written_by is not None else "an earlier vim_tf"
    raise UserError(
        f"{path} has {found} and was written by {writer}; this is {WRITTEN_BY}, which reads "
        f"format {NUMBERS[kind]} of a {kind}: {advice}, or use the version that wrote it"
    )


def check_schema(content: Any, schema: Mapping[str, Any], path: StrPath, advice: str) -> None:
    """Raises DamagedError unless the content of a document fits a JSON Schema; see `read_json`."""
    import jsonschema  # importing it takes a tenth of a second

    problem = next(jsonschema.Draft202012Validator(schema).iter_errors(content), None)
    if problem is not None:
        place = shorten(problem.json_path)
        reason = shorten(problem.message)
        raise DamagedError(f"{path} is damaged: {place}: {reason}; {advice}")


def json_object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the JSON Schema of an object that has all these properties, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _checksum(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: StrPath) -> bytes:
    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(f"{path} has more than the allowed {MOST_BYTES:,} bytes")
    return data


def _parse(data: bytes, path: StrPath, advice: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    # Text that is no JSON, JSON that is nested too deeply, or a number with too many digits.
    except (ValueError, RecursionError) as error:
        reason = shorten(str(error))
        raise DamagedError(f"{path} is damaged: it is no JSON ({reason}); {advice}") from None
    if not isinstance(document, dict):
        raise DamagedError(f"{path} is damaged: it holds no JSON object; {advice}")
    return document
