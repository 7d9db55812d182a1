"""The command line with a small network and six short epochs, killed when KILL says so.

KILL is "time:SECONDS", or "FOLDER:NUMBER:SECONDS": that long after the NUMBERth time that a file in
a folder of that name is opened for writing. The process then ends as by `kill -9`.
"""

import atexit
import dataclasses
import json
import os
import signal
import sys
import threading

from torch import nn
from torchvision.datasets import CIFAR10

from helpers import config, data
from helpers.experiments import EXPERIMENTS
from helpers.models import MODELS


class Tiny(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        )


MODELS["tiny"] = Tiny
EXPERIMENTS["S7/tiny"] = dataclasses.replace(EXPERIMENTS["S7/s7"], name="S7/tiny", model="tiny")
config.PROFILES["smoke"] = config.Profile("smoke", train_images=256, epochs=6)
if "CIFAR10_ATTRIBUTES" in os.environ:  # the checksums of the archive that the test serves
    for name, value in json.loads(os.environ["CIFAR10_ATTRIBUTES"]).items():
        setattr(CIFAR10, name, value)
    data.download_cifar10.__defaults__ = ((os.environ["MIRROR"],),)


def schedule_kill(trigger, *numbers):
    """Kill this process at a time, or when files are opened."""
    *open_count, seconds = map(float, numbers)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    if trigger == "time":
        timer.start()
        return
    opened = []

    def count_writes(event, arguments):
        if event != "open" or not isinstance(arguments[2], int):
            return
        path, _, flags = arguments
        parts = str(path).split(os.sep)
        if flags & (os.O_WRONLY | os.O_RDWR) and trigger in parts and ".locks" not in parts:
            opened.append(path)
            if len(opened) == open_count[0]:
                timer.start()
                atexit.register(timer.join)  # otherwise the command may end before the timer

    sys.addaudithook(count_writes)


if __name__ == "__main__":
    if os.environ.get("KILL"):
        schedule_kill(*os.environ["KILL"].split(":"))
    from helpers.__main__ import main

    main()
