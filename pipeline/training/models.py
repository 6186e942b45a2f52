"""The models of --model: each public function here makes one from the number of features.

A model is a keras.Model, or a tf.Module for the custom loop only. It maps x [B, D] to y [B] or
[B, 1], or to C outputs [B, C]. To add a model, add a function.
"""

import tensorflow as tf

# Up to this many features, XLA's multiply and add is faster than a matrix product.
_FEW_FEATURES = 8


def module(num_features: int = 1) -> "LinearModel":
    """The guide's model y = x·W + b as a tf.Module."""
    return LinearModel(num_features)


def keras(num_features: int = 1) -> "KerasLinearModel":
    """The guide's model y = x·W + b as a keras.Model."""
    return KerasLinearModel(num_features)


def polynomial(num_features: int) -> tf.keras.Model:
    """Polynomials: y = W·[x, x², x³] + b, from W = 0 and b = 0."""
    x = tf.keras.Input([num_features])
    powers = tf.keras.layers.Concatenate()([x, x**2, x**3])
    y = tf.keras.layers.Dense(1, kernel_initializer="zeros")(powers)
    return tf.keras.Model(x, y)


def mlp(num_features: int) -> tf.keras.Model:
    """A multilayer perceptron: two hidden layers of 64 units."""
    return tf.keras.Sequential(
        [
            tf.keras.Input([num_features]),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(1),
        ]
    )


def logistic(num_features: int) -> tf.keras.Model:
    """Logistic regression: the probability that y is 1, for --loss=binary_crossentropy."""
    output = tf.keras.layers.Dense(1, activation="sigmoid", kernel_initializer="zeros")
    return tf.keras.Sequential([tf.keras.Input([num_features]), output])


class LinearModel(tf.Module):  # type: ignore[misc]
    """y = x·W + b with plain TensorFlow variables: W [D], a weight for each feature, and b."""

    def __init__(self, num_features: int):
        """Starts as in the guide, with W = 5 and b = 0."""
        super().__init__()
        self.W = tf.Variable(tf.fill([num_features], 5.0), name="W")
        self.b = tf.Variable(0.0, name="b")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B] from x [B, D], or as in the guide from x [B] if D = 1."""
        return _linear(_with_features(x), self.W, self.b)


class KerasLinearModel(tf.keras.Model):  # type: ignore[misc]
    """The same model for Keras, with the same attributes.

    Keras 3 does not track a tf.Variable attribute (`fit` would silently train
    nothing), so both variables come from add_weight.
    """

    def __init__(self, num_features: int):
        """Starts as in the guide, with W = 5 and b = 0."""
        super().__init__()
        constant = tf.keras.initializers.Constant
        self.W = self.add_weight(name="W", shape=(num_features,), initializer=constant(5.0))
        self.b = self.add_weight(name="b", shape=(), initializer="zeros")
        self.built = True  # the weights exist, so load_weights works before a call

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B] from x [B, D], or as in the guide from x [B] if D = 1."""
        W, b = tf.convert_to_tensor(self.W), tf.convert_to_tensor(self.b)
        return _linear(_with_features(x), W, b)


def _linear(x: tf.Tensor, W: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The formula of both models: y [B] from x [B, D], W [D] and the scalar b."""
    if W.shape[0] <= _FEW_FEATURES:
        return tf.reduce_sum(x * W, axis=-1) + b
    return tf.linalg.matvec(x, W) + b


def _with_features(x: tf.Tensor) -> tf.Tensor:
    """Gives x [B], or a single number, the dimension of its one feature."""
    x = tf.convert_to_tensor(x)
    x = x if x.dtype.is_floating else tf.cast(x, tf.float32)
    return x if x.shape.rank == 2 else x[..., None]
