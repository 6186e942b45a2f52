"""Texts: a TextVectorization layer and an Embedding in the model.

python -m pipeline.train --data=scripts/examples/text.py:reviews \
  --model=scripts/examples/text.py:classifier --batch_size=32 --epochs=10 \
  --validation_fraction=0.2 --run_name=text
"""

import numpy as np
import tensorflow as tf

GOOD = ["great", "lovely", "moving", "brilliant", "funny"]
BAD = ["dull", "awful", "boring", "slow", "clumsy"]
OTHER = ["the", "a", "film", "plot", "actors", "ending", "music", "story", "camera", "is", "has"]


def reviews():
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 1000)
    texts = []
    for label in y:
        words = [*random.choice(GOOD if label else BAD, 2), *random.choice(OTHER, 10)]
        texts.append(" ".join(random.permutation(words)))
    return np.array(texts), y


def classifier():
    layers = tf.keras.layers
    tokens = layers.TextVectorization(max_tokens=100, output_sequence_length=16)
    tokens.adapt(reviews()[0])
    embedding = layers.Embedding(tokens.vocabulary_size(), 16)
    text = tf.keras.Input([], dtype="string", name="text")
    hidden = layers.GlobalAveragePooling1D()(embedding(tokens(text)))
    model = tf.keras.Model(text, layers.Dense(1, "sigmoid")(hidden))
    model.compile(tf.keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    return model
