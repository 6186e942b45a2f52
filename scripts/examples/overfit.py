"""Overfitting and underfitting: compare `tiny`, `large` and `regularized` in TensorBoard.

python -m pipeline.train --data=scripts/examples/overfit.py:collisions \
  --model=scripts/examples/overfit.py:regularized --loss=scripts/examples/overfit.py:loss \
  --metrics=scripts/examples/overfit.py:metrics --schedule=scripts/examples/overfit.py:rate \
  --optimizer=adam --batch_size=50 --epochs=40 --validation_fraction=0.5 --run_name=regularized
"""

import numpy as np
import tensorflow as tf

layers = tf.keras.layers
loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
metrics = [tf.keras.metrics.BinaryAccuracy(threshold=0.0)]  # of logits
rate = tf.keras.optimizers.schedules.InverseTimeDecay(0.001, decay_steps=1000, decay_rate=1)


def collisions():
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 28))
    y = x[:, 0] * x[:, 1] + x[:, 2] + random.normal(size=2000) > 0
    return x, y.astype(int)


def tiny():
    return tf.keras.Sequential([tf.keras.Input([28]), layers.Dense(16, "elu"), layers.Dense(1)])


def large():
    hidden = [layers.Dense(256, "elu") for _ in range(3)]
    return tf.keras.Sequential([tf.keras.Input([28]), *hidden, layers.Dense(1)])


def regularized():
    hidden = []
    for _ in range(3):
        l2 = tf.keras.regularizers.L2(1e-4)
        hidden += layers.Dense(256, "elu", kernel_regularizer=l2), layers.Dropout(0.5)
    return tf.keras.Sequential([tf.keras.Input([28]), *hidden, layers.Dense(1)])
