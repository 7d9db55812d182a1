"""A tiny CIFAR-10 of the right form."""

import hashlib
import io
import pickle
import tarfile

import numpy as np

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]


def packed(images: int) -> tuple[bytes, dict]:
    """An archive with so many images of noise a file, and its sums as torchvision's CIFAR10 has."""
    archive, sums = io.BytesIO(), {}
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in NAMES:
            noise = np.random.default_rng(0).integers(0, 256, (images, 3072), np.uint8)
            content = {"data": noise, "labels": [0, 1] * (images // 2)}
            content = {"label_names": list("abcdefghij")} if "meta" in name else content
            raw = pickle.dumps(content)
            sums[name] = hashlib.md5(raw).hexdigest()
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    return archive.getvalue(), {
        "tgz_md5": hashlib.md5(archive.getvalue()).hexdigest(), "meta": meta,
        "train_list": [[name, sums[name]] for name in NAMES[:5]],
        "test_list": [["test_batch", sums["test_batch"]]],
    }  # fmt: skip
