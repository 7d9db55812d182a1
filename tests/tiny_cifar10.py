"""A tiny archive in the format of CIFAR-10."""

import hashlib
import io
import pickle
import tarfile

import numpy as np

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]


def packed(images: int) -> tuple[bytes, dict]:
    """Return an archive of random images and the checksums that torchvision's CIFAR10 needs.

    Args:
        images: The number of images in each file; even.

    Returns:
        The bytes of the archive, and values for the attributes of torchvision's class.
    """
    buffer = io.BytesIO()
    md5_sums = {}
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in NAMES:
            if name == "batches.meta":
                content = {"label_names": list("abcdefghij")}
            else:
                rng = np.random.default_rng(0)
                noise = rng.integers(0, 256, (images, 3072), np.uint8)
                content = {"data": noise, "labels": [0, 1] * (images // 2)}
            raw = pickle.dumps(content)
            md5_sums[name] = hashlib.md5(raw).hexdigest()
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    archive = buffer.getvalue()
    attributes = {
        "tgz_md5": hashlib.md5(archive).hexdigest(),
        "meta": {
            "filename": "batches.meta",
            "key": "label_names",
            "md5": md5_sums["batches.meta"],
        },
        "train_list": [[name, md5_sums[name]] for name in NAMES[:5]],
        "test_list": [["test_batch", md5_sums["test_batch"]]],
    }
    return archive, attributes
