"""A SavedModel in a v1 Session, as TensorFlow Serving runs it, with checks and batching."""

import tensorflow as tf
from batcher import Batcher, BatcherFull

tf.get_logger().setLevel("ERROR")
HIDDEN = "__saved_model_init_op"


class Refused(Exception):
    """A request is refused.

    Args:
        code: name of a gRPC status code, such as "INVALID_ARGUMENT".
        message: what is wrong.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def invalid(message):
    return Refused("INVALID_ARGUMENT", message)


class ServedModel:
    """One version of a model.

    Args:
        folder: folder of the SavedModel, `<base path>/<version>`.
        max_batch_size: most rows that are joined; larger requests are refused.
        wait_seconds: how long a request waits for others.
        max_waiting: most requests of one signature in the queue.
    """

    def __init__(self, folder, max_batch_size, wait_seconds, max_waiting):
        self.version = int(folder.name)
        self.max_batch_size = max_batch_size
        graph = tf.Graph()
        with graph.as_default():
            self._session = tf.compat.v1.Session(graph=graph)
            meta_graph = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
        self.signatures = {
            name: signature
            for name, signature in meta_graph.signature_def.items()
            if name != HIDDEN
        }
        self._batchers = {
            name: Batcher(self._runner(signature), max_batch_size, wait_seconds, max_waiting)
            for name, signature in self.signatures.items()
        }

    def _runner(self, signature):
        outputs = {name: spec.name for name, spec in signature.outputs.items()}
        call = self._session.make_callable  # one executor per signature, for all batch sizes
        names = list(signature.inputs)
        run = call(list(outputs.values()), [signature.inputs[name].name for name in names])
        return lambda inputs: dict(zip(outputs, run(*(inputs[n] for n in names)), strict=True))

    def signature(self, name):
        """Returns (name, SignatureDef); an empty name gives the default signature."""
        name = name or "serving_default"
        if name not in self.signatures:
            raise invalid(
                f'Serving signature name: "{name}" not found; there are '
                f"{', '.join(sorted(self.signatures))}"
            )
        return name, self.signatures[name]

    def check_names(self, signature, given):
        """Refuses missing and unknown inputs."""
        missing, unknown = set(signature.inputs) - set(given), set(given) - set(signature.inputs)
        if missing or unknown:
            raise invalid(
                f"inputs must be {', '.join(sorted(signature.inputs))}; "
                f"missing: {', '.join(sorted(missing)) or 'none'}; "
                f"unknown: {', '.join(sorted(unknown)) or 'none'}"
            )

    def check_shape(self, name, spec, shape):
        """Refuses an input if its shape [int] is not that of the signature."""
        wanted = [dim.size for dim in spec.tensor_shape.dim]  # -1 is any size
        if len(shape) != len(wanted) or any(
            want not in (-1, size) for want, size in zip(wanted, shape, strict=True)
        ):
            raise invalid(f"input {name} has the shape {list(shape)}; it must be {wanted}")
        if not 1 <= shape[0] <= self.max_batch_size:
            raise invalid(
                f"input {name} has {shape[0]} rows; a request takes 1 to {self.max_batch_size}"
            )

    def predict(self, signature_name, inputs):
        """Answers a request, possibly in one batch with others.

        Args:
            signature_name: a signature.
            inputs: {name: array}, of the signature's types.

        Returns:
            {output name: array} of the request's own rows.
        """
        signature_name, signature = self.signature(signature_name)
        self.check_names(signature, inputs)
        for name, value in inputs.items():
            spec = signature.inputs[name]
            if value.dtype != tf.as_dtype(spec.dtype).as_numpy_dtype:
                raise invalid(
                    f"input {name} is {value.dtype}; it must be {tf.as_dtype(spec.dtype).name}"
                )
            self.check_shape(name, spec, value.shape)
        rows = {name: len(value) for name, value in inputs.items()}
        if len(set(rows.values())) != 1:
            raise invalid(f"the inputs' numbers of rows disagree: {rows}")
        try:
            return self._batchers[signature_name].submit(inputs, next(iter(rows.values())))
        except tf.errors.OpError as error:
            raise Refused("INTERNAL", error.message) from None
        except BatcherFull as error:
            raise Refused("UNAVAILABLE", str(error)) from None

    def batch_sizes(self):
        """{signature: [[rows of each request] for each of the last batches]}, for tests."""
        return {name: list(batcher.batches) for name, batcher in self._batchers.items()}
