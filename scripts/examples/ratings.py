"""Collaborative filtering: ratings of films by users, from two IDs.

python -m pipeline.train --data=scripts/examples/ratings.py:ratings \
  --model=scripts/examples/ratings.py:recommender --batch_size=64 --epochs=10 \
  --validation_fraction=0.1 --run_name=ratings
"""

import numpy as np
import tensorflow as tf

USERS, FILMS, SIZE = 200, 100, 8


def ratings():
    random = np.random.default_rng(0)
    user, film = random.integers(0, USERS, 5000), random.integers(0, FILMS, 5000)
    tastes, kinds = random.normal(size=(USERS, 2)), random.normal(size=(FILMS, 2))
    stars = 3 + np.sum(tastes[user] * kinds[film], axis=1)
    return {"user": user, "film": film}, np.clip(np.round(stars), 1, 5)


def recommender():
    layers, l2 = tf.keras.layers, tf.keras.regularizers.L2(1e-6)
    inputs = {name: tf.keras.Input([], dtype="int64", name=name) for name in ("user", "film")}
    user = layers.Embedding(USERS, SIZE, embeddings_regularizer=l2)(inputs["user"])
    film = layers.Embedding(FILMS, SIZE, embeddings_regularizer=l2)(inputs["film"])
    match = layers.Dot(axes=1)([user, film])
    model = tf.keras.Model(inputs, layers.Dense(1)(match))
    model.compile(tf.keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model
