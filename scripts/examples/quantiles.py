"""Quantile regression: three outputs, and a loss of one's own.

python -m pipeline.train --data=scripts/examples/quantiles.py:spending \
  --model=scripts/examples/quantiles.py:quantiles --loss=scripts/examples/quantiles.py:pinball \
  --optimizer=adam --learning_rate=0.01 --batch_size=64 --epochs=50 --validation_fraction=0.2 \
  --run_name=quantiles
"""

import numpy as np
import tensorflow as tf

QUANTILES = [0.1, 0.5, 0.9]


def spending():
    random = np.random.default_rng(0)
    income = random.uniform(0.5, 3, [1000, 1])
    return income, income * (0.5 + 0.1 * random.normal(size=[1000, 1]))


def quantiles():
    layers = tf.keras.layers
    parts = layers.Dense(16, "relu"), layers.Dense(len(QUANTILES))
    return tf.keras.Sequential([tf.keras.Input([1]), *parts])


def pinball(y, prediction):  # [B, 1], [B, 3]
    error = y - prediction
    return tf.reduce_mean(tf.maximum(QUANTILES * error, (np.array(QUANTILES) - 1) * error), axis=-1)
