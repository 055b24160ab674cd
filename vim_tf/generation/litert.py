"""LiteRT, which is needed only to run or export its files."""

import importlib
from types import ModuleType
from typing import Any

from vim_tf.annotations import StrPath
from vim_tf.distribution.cores import count_cores
from vim_tf.errors import UserError

# 2.0.2 and 2.1.0 compute decoder_int8.tflite 9 dB worse by their XNNPACK than without it, and 2.0.2
# cannot be imported beside TensorFlow 2.20. 2.1.3, 2.1.5, 2.1.6, 2.2.0 and 2.3.0 do not differ.
LITERT = "ai-edge-litert>=2.1.3,<3"


def load_litert(module: str = "interpreter") -> ModuleType:
    """Returns a module of ai_edge_litert; UserError if it is not installed."""
    try:
        return importlib.import_module(f"ai_edge_litert.{module}")
    except ImportError as error:
        raise UserError(
            f"LiteRT is needed and cannot be imported ({error}); install it: pip install '{LITERT}'"
        ) from None


def open_interpreter(path: StrPath) -> Any:
    """Returns an Interpreter of a .tflite file that uses every core it may; UserError as above.

    Raises:
        ValueError: LiteRT's, for a file that is not a LiteRT file.
    """
    return load_litert().Interpreter(str(path), num_threads=count_cores())
