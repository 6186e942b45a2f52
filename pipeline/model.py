"""The model y = x·W + b, as a tf.Module and as a Keras model."""

import tensorflow as tf


def _predict(x: tf.Tensor, W: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return (W * x if W.shape.rank == 0 else tf.linalg.matvec(x, W)) + b


class LinearModel(tf.Module):  # type: ignore[misc]
    """y = x·W + b with plain TensorFlow variables.

    Attributes:
      W: Scalar float32 for one feature, [D] for D features.
      b: Scalar float32.
    """

    def __init__(
        self,
        *,
        initial_w: float = 5.0,
        initial_b: float = 0.0,
        num_features: int | None = None,
    ):
        """Starts with every W at initial_w; num_features=None makes W a scalar."""
        super().__init__()
        shape = () if num_features is None else (num_features,)
        self.W = tf.Variable(tf.fill(shape, float(initial_w)), name="W")
        self.b = tf.Variable(float(initial_b), name="b")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B] from x [B], or from [B, D] for D features."""
        return _predict(x, self.W, self.b)


class KerasLinearModel(tf.keras.Model):  # type: ignore[misc]
    """The same model for Keras, with the same attributes.

    Keras 3 does not track a tf.Variable attribute (`fit` would silently train
    nothing), so both parameters come from add_weight.
    """

    def __init__(
        self,
        *,
        initial_w: float = 5.0,
        initial_b: float = 0.0,
        num_features: int | None = None,
    ):
        """Starts with every W at initial_w; num_features=None makes W a scalar."""
        super().__init__()
        constant = tf.keras.initializers.Constant
        shape = () if num_features is None else (num_features,)
        self.W = self.add_weight(name="W", shape=shape, initializer=constant(initial_w))
        self.b = self.add_weight(name="b", shape=(), initializer=constant(initial_b))
        self.built = True  # the weights exist: load_weights need not wait for a call

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B] from x [B], or from [B, D] for D features."""
        return _predict(x, tf.convert_to_tensor(self.W), tf.convert_to_tensor(self.b))


Model = LinearModel | KerasLinearModel


def variable(parameter: tf.Variable) -> tf.Variable:
    """The tf.Variable inside a Keras variable; any other variable as it is."""
    return parameter if isinstance(parameter, tf.Variable) else parameter.value


def create(
    kind: str, *, initial_w: float, initial_b: float, num_features: int | None = None
) -> Model:
    """Makes the model that --model names."""
    model_class: type[Model] = LinearModel if kind == "module" else KerasLinearModel
    return model_class(initial_w=initial_w, initial_b=initial_b, num_features=num_features)
