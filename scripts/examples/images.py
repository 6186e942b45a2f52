"""A tf.data pipeline with random augmentation that a resumed run repeats.

python -m pipeline.train --data=scripts/examples/images.py:images \
  --model=scripts/examples/images.py:classifier --epochs=10 --run_name=images
"""

import numpy as np
import tensorflow as tf


def augment(example, seed):
    image, label = example
    image = tf.image.stateless_random_flip_left_right(image, [seed, 0])
    image = tf.image.stateless_random_brightness(image, 0.2, [seed, 1])
    return image, label


def images(split):
    random = np.random.default_rng(["train", "validation"].index(split))
    count = 1000 if split == "train" else 200
    labels = random.integers(0, 2, count)  # horizontal or vertical stripes
    stripes = np.tile([0, 0, 1, 1], 4) * np.ones([16, 1])
    x = np.where(labels[:, None, None], stripes, stripes.T) + random.normal(0, 1, [count, 16, 16])
    data = tf.data.Dataset.from_tensor_slices((x[..., None].astype("float32"), labels))
    if split == "train":
        data = tf.data.Dataset.zip(data.shuffle(1000, seed=0), tf.data.Dataset.random(seed=0))
        data = data.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(32)


def classifier():
    layers = tf.keras.layers
    parts = layers.Conv2D(8, 5, activation="relu"), layers.GlobalMaxPooling2D(), layers.Dense(2)
    model = tf.keras.Sequential([tf.keras.Input([16, 16, 1]), *parts])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model
