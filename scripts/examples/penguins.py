"""Three species by four measurements; the labels are texts.

python -m pipeline.train --data=scripts/examples/penguins.py:penguins \
  --model=scripts/examples/penguins.py:classifier --batch_size=32 --epochs=50 \
  --validation_fraction=0.2 --run_name=penguins
"""

import numpy as np
import tensorflow as tf

SPECIES = ["Adelie", "Chinstrap", "Gentoo"]
MEANS = [[38.8, 18.3, 190, 3.70], [48.8, 18.4, 196, 3.73], [47.5, 15.0, 217, 5.08]]
STDDEVS = [2.9, 1.1, 6.6, 0.45]  # bill length and depth in mm, flipper in mm, mass in kg


def penguins():
    random = np.random.default_rng(0)
    species = random.choice(SPECIES, 330, p=[0.44, 0.2, 0.36])
    y = np.searchsorted(SPECIES, species)  # texts to 0, 1, 2
    x = random.normal(np.array(MEANS)[y], STDDEVS)
    return x, y


def classifier():
    layers = tf.keras.layers
    scale = layers.Normalization(mean=np.mean(MEANS, axis=0), variance=[25, 4, 170, 0.6])
    hidden = layers.Dense(10, "relu"), layers.Dense(10, "relu")
    model = tf.keras.Sequential([tf.keras.Input([4]), scale, *hidden, layers.Dense(3)])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model
