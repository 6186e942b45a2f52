"""Imbalanced classes: 2 % of the transactions are fraud.

python -m pipeline.train --data=scripts/examples/imbalanced.py:transactions \
  --model=scripts/examples/imbalanced.py:detector --metrics=scripts/examples/imbalanced.py:metrics \
  --loss=binary_crossentropy --class_weight=balanced --optimizer=adam --learning_rate=0.001 \
  --batch_size=256 --epochs=20 --validation_fraction=0.2 --run_name=imbalanced
"""

import numpy as np
import tensorflow as tf

FRAUD = 0.02
metrics = [
    tf.keras.metrics.AUC(name="auc"),
    tf.keras.metrics.AUC(curve="PR", name="prc"),
    tf.keras.metrics.Precision(),
    tf.keras.metrics.Recall(),
]


def transactions():
    random = np.random.default_rng(0)
    y = (random.random(10_000) < FRAUD).astype(int)
    x = random.normal(size=(10_000, 29)) + 0.4 * y[:, None]
    return x, y


def detector():
    layers = tf.keras.layers
    bias = tf.keras.initializers.Constant(np.log(FRAUD / (1 - FRAUD)))
    hidden = layers.Dense(16, "relu"), layers.Dropout(0.5)
    output = layers.Dense(1, "sigmoid", bias_initializer=bias)
    return tf.keras.Sequential([tf.keras.Input([29]), *hidden, output])
