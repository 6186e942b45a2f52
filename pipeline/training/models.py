"""The model y = x·W + b, as a tf.Module and as a Keras model."""

import tensorflow as tf

# Up to so many features, XLA multiplies and adds faster than it calls a matrix product.
_FEW_FEATURES = 8


def _predict(x: tf.Tensor, W: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The formula of both models: y [B] from x [B, D], W [D] and the scalar b."""
    if W.shape[0] <= _FEW_FEATURES:
        return tf.reduce_sum(x * W, axis=-1) + b
    return tf.linalg.matvec(x, W) + b


class LinearModel(tf.Module):  # type: ignore[misc]
    """y = x·W + b with plain TensorFlow variables: W [D], a weight for each feature, and b."""

    def __init__(self, num_features: int = 1, *, initial_w: float = 5.0, initial_b: float = 0.0):
        """Starts with every weight at initial_w."""
        super().__init__()
        self.W = tf.Variable(tf.fill([num_features], float(initial_w)), name="W")
        self.b = tf.Variable(float(initial_b), name="b")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B] from x [B, D], or as in the guide from x [B] if D = 1."""
        return _predict(_with_features(x), self.W, self.b)


class KerasLinearModel(tf.keras.Model):  # type: ignore[misc]
    """The same model for Keras, with the same attributes.

    Keras 3 does not track a tf.Variable attribute (`fit` would silently train
    nothing), so both variables come from add_weight.
    """

    def __init__(self, num_features: int = 1, *, initial_w: float = 5.0, initial_b: float = 0.0):
        """Starts with every weight at initial_w."""
        super().__init__()
        constant = tf.keras.initializers.Constant
        self.W = self.add_weight(name="W", shape=(num_features,), initializer=constant(initial_w))
        self.b = self.add_weight(name="b", shape=(), initializer=constant(initial_b))
        self.built = True  # the weights exist: load_weights need not wait for a call

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B] from x [B, D], or as in the guide from x [B] if D = 1."""
        W, b = tf.convert_to_tensor(self.W), tf.convert_to_tensor(self.b)
        return _predict(_with_features(x), W, b)


def _with_features(x: tf.Tensor) -> tf.Tensor:
    """Gives x [B], or a single number, the dimension of its one feature."""
    x = tf.convert_to_tensor(x)
    return x if x.shape.rank == 2 else x[..., None]


Model = LinearModel | KerasLinearModel
MODELS: dict[str, type[Model]] = {"module": LinearModel, "keras": KerasLinearModel}
