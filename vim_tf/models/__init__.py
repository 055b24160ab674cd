"""Networks, in keras.ops only: they run on any Keras backend."""
