"""Shuffles examples; each position of the order can be computed on its own."""

import math

import tensorflow as tf

_ROUNDS = 6


def shuffled(positions: tf.Tensor, *, count: int, seed: int, epochs: tf.Tensor) -> tf.Tensor:
    """Returns the examples at given positions of each epoch's random order.

    A Feistel cipher on the numbers 0 ... count - 1, written as two digits of about equal
    base, with keys from the seed and the epoch. A result of `count` or more is enciphered again
    until it is less: J. Black and P. Rogaway, Ciphers with Arbitrary Finite Domains
    (CT-RSA 2002), sections 5 and 4. It uses integers only, so every machine gives the same order.

    tf.random.experimental.index_shuffle does the same with another cipher, but XLA has no kernel
    for it, and outside XLA it is seven times slower.

    positions is [K, B] int32, less than count (itself less than 2**31), seed is less than 2**32,
    and epochs is [K] int64. Returns [K, B] int32: a permutation of the positions in each epoch.
    """
    bases = math.isqrt(count - 1) + 1, -(-count // (math.isqrt(count - 1) + 1))
    words = tf.constant([_word(round_) for round_ in range(_ROUNDS)], tf.uint32)[:, None, None]
    epoch = tf.cast(epochs, tf.uint32)[:, None]
    keys = tf.unstack(_mixed(_mixed(epoch + words) ^ tf.constant(_word(seed), tf.uint32)))

    def enciphered(numbers: tf.Tensor) -> tf.Tensor:
        digits = [numbers // bases[1], numbers % bases[1]]
        for round_, key in enumerate(keys):
            this, other = round_ % 2, 1 - round_ % 2
            word = _mixed(tf.cast(digits[other], tf.uint32) ^ key)
            moved = digits[this] + _scaled(word, bases[this])
            digits[this] = tf.where(moved >= bases[this], moved - bases[this], moved)
        return digits[0] * bases[1] + digits[1]

    def encipher_once_more(numbers: tf.Tensor, is_left: tf.Tensor) -> tuple[tf.Tensor, ...]:
        numbers = tf.where(is_left, enciphered(numbers), numbers)
        return numbers, numbers >= count

    everything = tf.ones_like(positions, tf.bool)
    is_any_left = lambda numbers, is_left: tf.reduce_any(is_left)  # noqa: ARG005, E731
    return tf.while_loop(is_any_left, encipher_once_more, [positions, everything])[0]


def _word(number: int) -> int:
    """Returns a multiple of 2**32 over the golden ratio: a well mixed constant."""
    return (number + 1) * 0x9E3779B9 % 2**32


def _mixed(words: tf.Tensor) -> tf.Tensor:
    """The finalizer of MurmurHash3: each bit of a word changes about half of the others."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words ^= tf.bitwise.right_shift(words, tf.constant(shift, tf.uint32))
        words *= tf.constant(factor, tf.uint32)
    return words ^ tf.bitwise.right_shift(words, tf.constant(16, tf.uint32))


def _scaled(words: tf.Tensor, base: int) -> tf.Tensor:
    """Scales words of 32 bits to numbers below base, int32."""
    product = tf.cast(words, tf.uint64) * tf.constant(base, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(product, tf.constant(32, tf.uint64)), tf.int32)
