"""An autoencoder: the label is the input.

python -m pipeline.train --data=scripts/examples/autoencoder.py:signals \
  --model=scripts/examples/autoencoder.py:autoencoder --batch_size=64 --epochs=20 \
  --validation_fraction=0.2 --run_name=autoencoder
"""

import numpy as np
import tensorflow as tf


def signals():
    random = np.random.default_rng(0)
    phase, frequency = random.uniform(0, 6, [2, 1000, 1])
    x = np.sin(phase + frequency * np.linspace(0, 1, 32)) + random.normal(0, 0.05, [1000, 32])
    return x, x


def autoencoder():
    layers = tf.keras.layers
    encoder = layers.Dense(16, "relu"), layers.Dense(4)
    decoder = layers.Dense(16, "relu"), layers.Dense(32)
    model = tf.keras.Sequential([tf.keras.Input([32]), *encoder, *decoder])
    model.compile("adam", "mae")
    return model
