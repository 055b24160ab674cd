# TensorFlow ships no types. The stubs that type checkers bring are partial and wrong in places:
# they refuse tf.Variable(0). So all of TensorFlow is Any here, as all of Keras is.
from typing import Any

def __getattr__(name: str) -> Any: ...
