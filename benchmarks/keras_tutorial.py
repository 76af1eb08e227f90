"""The tutorial's own script, in Keras: what `python -m benchmarks` measures our training against.

Runs in an environment of its own (tensorflow-cpu), on the images of a .npz file that the harness writes: x_train,
y_train, x_test, y_test (uint8 [N, 32, 32, 3], int [N]). Prints one JSON line an epoch: epoch, seconds since the
training began (evaluation included), test accuracy; with --steps only a throughput, of the median step: what `fit`
does once (tracing, handing over the array) is not held against it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers


def network() -> keras.Model:
    """AlexNet for 32x32 images as the tutorial writes it: 9,639,178 parameters, as Keras counts them."""
    return keras.Sequential(
        [
            layers.Input((32, 32, 3)),
            layers.Conv2D(96, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(3, 2),
            layers.Conv2D(256, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(3, 2),
            layers.Conv2D(384, 3, padding="same", activation="relu"),
            layers.Conv2D(384, 3, padding="same", activation="relu"),
            layers.Conv2D(256, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(3, 2),
            layers.Flatten(),
            layers.Dense(2048, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(2048, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


class Clock(keras.callbacks.Callback):
    """Prints each epoch's end: seconds since the training began, and the test accuracy."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        seconds = time.perf_counter() - self.started
        print(json.dumps({"epoch": epoch + 1, "seconds": seconds, "accuracy": float(logs["val_accuracy"])}), flush=True)


class Steps(keras.callbacks.Callback):
    """Seconds of each step."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="the .npz file")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="only time this many steps, instead of training")
    parser.add_argument("--repeats", type=int, default=3, help="with --steps: so often")
    arguments = parser.parse_args()
    data = np.load(arguments.images)
    pixels, labels = data["x_train"].astype("float32") / 255, data["y_train"]
    model = network()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    if arguments.steps is None:
        test = data["x_test"].astype("float32") / 255, data["y_test"]
        fitted = {"batch_size": arguments.batch, "epochs": arguments.epochs, "verbose": 0}
        model.fit(pixels, labels, validation_data=test, callbacks=[Clock()], **fitted)
        return
    images = arguments.steps * arguments.batch
    for turn in range(arguments.repeats + 1):
        steps = Steps()
        model.fit(pixels[:images], labels[:images], batch_size=arguments.batch, verbose=0, callbacks=[steps])
        if turn:  # the first one traces the graph
            rate = arguments.batch / statistics.median(steps.seconds)
            print(json.dumps({"images_per_s": rate}), flush=True)


if __name__ == "__main__":
    main()
