"""Images of digits and a convolutional network.

python -m pipeline.train --data=scripts/examples/digits.py:digits \
  --model=scripts/examples/digits.py:convolutional --batch_size=64 --epochs=5 \
  --validation_fraction=0.2 --run_name=digits
"""

import numpy as np
import tensorflow as tf

# Ten glyphs of five rows, an octal digit for each row of three pixels.
GLYPHS = [0o75557, 0o26227, 0o71747, 0o71717, 0o55711, 0o74717, 0o74757, 0o71111, 0o75757, 0o75717]


def digits():
    random = np.random.default_rng(0)
    pixels = np.array(GLYPHS)[:, None] >> np.arange(15)[::-1] & 1
    shapes = pixels.reshape(10, 5, 3)
    labels = random.integers(0, 10, 2000)
    images = random.normal(0, 0.3, [2000, 8, 8, 1])
    for i, (top, left) in enumerate(random.integers(0, 4, [2000, 2])):
        images[i, top : top + 5, left : left + 3, 0] += shapes[labels[i]]
    return images, labels


def convolutional():
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 1]),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(10),
        ]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model
