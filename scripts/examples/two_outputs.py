"""Two outputs with a loss each: the price of a house, and whether it is sold within a month.

python -m pipeline.train --data=scripts/examples/two_outputs.py:houses \
  --model=scripts/examples/two_outputs.py:agent --batch_size=32 --epochs=20 \
  --validation_fraction=0.2 --run_name=two_outputs
"""

import numpy as np
import tensorflow as tf


def houses():
    random = np.random.default_rng(0)
    x = random.normal(size=(1000, 5))
    price = 3 + x @ [1, 0.5, 0.2, -0.3, 0] + random.normal(0, 0.1, 1000)
    sold = x[:, 4] - 0.5 * price + random.normal(0, 0.5, 1000) > -1.5
    return x, {"price": price, "sold": sold.astype(int)}


def agent():
    layers = tf.keras.layers
    x = tf.keras.Input([5])
    hidden = layers.Dense(32, "relu")(x)
    price = layers.Dense(1, name="price")(hidden)
    sold = layers.Dense(1, "sigmoid", name="sold")(hidden)
    model = tf.keras.Model(x, {"price": price, "sold": sold})
    model.compile(
        "adam",
        loss={"price": "mse", "sold": "binary_crossentropy"},
        loss_weights={"price": 1, "sold": 0.5},
        metrics={"price": ["mae"], "sold": ["accuracy"]},
    )
    return model
