"""Names for annotations where the libraries publish no types."""

import os
from typing import Any, TypeAlias

# A tensor of Keras' backend. Neither Keras nor TensorFlow publishes types, so a type checker reads
# Any; the docstrings give shape, dtype and range.
Tensor: TypeAlias = Any
# A path from outside.
StrPath: TypeAlias = str | os.PathLike[str]
