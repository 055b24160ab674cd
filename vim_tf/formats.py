"""Formats of the files that vim_tf writes: their numbers, and its JSON documents.

Every file that carries meaning has a `format` number, and the version that wrote it. A rule that
changes what such a file means raises the number here. A file of another number is refused: until
0.1.0 is released no code reads what earlier commits wrote.

A JSON document also has a checksum of itself, so that a flipped bit is never taken for a value.
"""

import hashlib
import json
import os
import stat

from etils import epath

from vim_tf.errors import DamagedError, UserError
from vim_tf.files import is_in_bucket
from vim_tf.messages import shorten
from vim_tf.versions import VERSION

# Number 1 had no checksums and no fingerprints of images.
NUMBERS = {
    "run": 2,  # <run>/config.yaml, and what its keys mean
    "checkpoint": 2,  # manifest.json, best.json, and the state beside them
    "preset": 2,  # config.json, metadata.json, and the weights beside them
    "token cache": 2,  # header.json and the shards
    "features": 2,  # complete.json and the arrays of a probe's features
    "probe": 2,  # probe.json
    "statistics": 2,  # kept statistics of a reference
    "export": 2,  # generator.json, protocol.json and SHA256SUMS
}
WRITTEN_BY = f"vim_tf {VERSION}"
MOST_BYTES = 2**26  # of a JSON document; the largest, the header of a cache, names its classes
_SEAL = ("format", "written_by", "checksum")


def to_json(kind, content):
    """Returns the text of a JSON document with its format, its writer and its checksum.

    Args:
        kind: one of `NUMBERS`.
        content: a dict that JSON can hold, without the keys "format", "written_by", "checksum".
    """
    document = {"format": NUMBERS[kind], "written_by": WRITTEN_BY, **content}
    document = json.loads(json.dumps(document))  # as a reader will find it
    return json.dumps({**document, "checksum": _checksum(document)}, indent=1) + "\n"


def read_json(path, kind, advice, schema=None):
    """Reads a document of `to_json`.

    Args:
        path: the file, on a disk or in a bucket.
        kind: one of `NUMBERS`.
        advice: what to do about a file that cannot be used, for the error.
        schema: JSON Schema of the content, `json_object` for example; None checks no more.

    Returns:
        The content, a dict without format, writer and checksum.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it was changed or cut short after it was written, or never was such a file.
        UserError: it has another format, or is too large to be one.
    """
    document = _parse(_read(path), path, advice)
    unsealed = {key: value for key, value in document.items() if key != "checksum"}
    if "checksum" in document:
        if document["checksum"] != _checksum(unsealed):
            raise DamagedError(f"{path} is damaged: its checksum is of other content; {advice}")
        check_format(path, kind, document.get("format"), document.get("written_by"), advice)
    else:
        check_format(path, kind, document.get("format"), document.get("written_by"), advice)
        raise DamagedError(f"{path} is damaged: it has no checksum; {advice}")
    content = {key: value for key, value in document.items() if key not in _SEAL}
    if schema is not None:
        check_schema(content, schema, path, advice)
    return content


def check_format(path, kind, number, written_by, advice):
    """Raises UserError unless `number` is the present format of `kind`.

    Args:
        path: the file, for the error.
        kind: one of `NUMBERS`.
        number: what the file says, anything; None if it says nothing.
        written_by: what it says wrote it.
        advice: what to do.
    """
    if type(number) is int and number == NUMBERS[kind]:
        return
    found = f"the format {shorten(str(number))}" if number is not None else "no format number"
    writer = shorten(str(written_by)) if written_by is not None else "an earlier vim_tf"
    raise UserError(
        f"{path} has {found} and was written by {writer}; this is {WRITTEN_BY}, which reads "
        f"format {NUMBERS[kind]} of a {kind}: {advice}, or use the version that wrote it"
    )


def check_schema(content, schema, path, advice):
    """Raises DamagedError unless the content of a document fits a JSON Schema; see `read_json`."""
    import jsonschema  # takes a tenth of a second

    problem = next(jsonschema.Draft202012Validator(schema).iter_errors(content), None)
    if problem is not None:
        place = shorten(problem.json_path)
        reason = shorten(problem.message)
        raise DamagedError(f"{path} is damaged: {place}: {reason}; {advice}")


def json_object(**properties):
    """Returns the JSON Schema of an object that has all these properties, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _checksum(document):
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path):
    if is_in_bucket(path):
        data = epath.Path(path).read_bytes()
    else:
        # Not blocking: a pipe instead of the file would wait for a writer for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path} is no regular file; give the one that vim_tf wrote")
            data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(f"{path} has more than {MOST_BYTES:,} bytes, which no such file has")
    return data


def _parse(data, path, advice):
    try:
        document = json.loads(data)
    # Of a text that is no JSON, of one that is nested too deeply, of a number with too many digits.
    except (ValueError, RecursionError) as error:
        reason = shorten(str(error))
        raise DamagedError(f"{path} is damaged: it is no JSON ({reason}); {advice}") from None
    if not isinstance(document, dict):
        raise DamagedError(f"{path} is damaged: it holds no JSON object; {advice}")
    return document
