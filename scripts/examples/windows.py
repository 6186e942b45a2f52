"""A time series: an LSTM forecasts the next hour from windows of a day.

python -m pipeline.train --data=scripts/examples/windows.py:windows \
  --model=scripts/examples/windows.py:forecaster --epochs=5 --run_name=windows
"""

import numpy as np
import tensorflow as tf

HOURS = 24


def windows(split):
    hours = np.arange(3000)
    noise = np.random.default_rng(0).normal(size=len(hours))
    temperature = np.sin(2 * np.pi * hours / 24) + np.sin(2 * np.pi * hours / 1000) + 0.1 * noise
    series = temperature.astype("float32")[:, None]
    series = series[:2400] if split == "train" else series[2400:]
    return tf.keras.utils.timeseries_dataset_from_array(
        series[:-HOURS], series[HOURS:, 0], HOURS, batch_size=32, shuffle=split == "train"
    )


def forecaster():
    layers = tf.keras.layers
    model = tf.keras.Sequential([tf.keras.Input([HOURS, 1]), layers.LSTM(16), layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    return model
