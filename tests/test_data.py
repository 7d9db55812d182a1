"""Where the data comes from, what is checked, and that every batch can be had again."""

import http.server
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent import futures
from dataclasses import replace
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torchvision.datasets import CIFAR10

from helpers import data as data_module
from helpers import transforms
from helpers.config import PROFILES, ROOT, Settings, cifar10_root
from helpers.data import DataUnavailableError, ImageData
from helpers.files import sha256
from helpers.loaders import SeededBatchSampler, make_train_loader
from tests import tiny_cifar10


@pytest.fixture(scope="module")
def sample():
    return data_module.load_sample()


def images_like_cifar10(train: int = 600, test: int = 100) -> ImageData:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (train + test, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, train + test)
    return ImageData(
        "made", "made", tuple("0123456789"), images[:train], labels[:train], images[train:],
        labels[train:],
    )  # fmt: skip


def original_cifar10() -> ImageData | None:
    """Return CIFAR-10 if it is on this machine."""
    from torchvision.datasets import CIFAR10

    parts = ROOT.parent / "shared" / "cifar10"
    with tempfile.TemporaryDirectory() as folder:
        root = cifar10_root()
        if (parts / "unpack.py").is_file() and not (root / CIFAR10.base_folder).is_dir():
            root = Path(folder)
            subprocess.run([sys.executable, parts / "unpack.py", root], check=True)
        if (root / CIFAR10.base_folder).is_dir():
            return data_module.load_cifar10(root)
    return None


def test_the_sample_has_the_first_images_of_each_class(sample):
    checksums = json.loads((data_module.SAMPLE_DIR / "sha256.json").read_text())
    original = original_cifar10()
    for split, number in (("train", 500), ("test", 100)):
        images, labels = getattr(sample, f"{split}_images"), getattr(sample, f"{split}_labels")
        assert images.shape == (10 * number, 32, 32, 3)
        assert np.bincount(labels).tolist() == [number] * 10
        assert sha256(images.tobytes()) == checksums[split]
        indices = np.loadtxt(
            data_module.SAMPLE_DIR / f"{split}.csv", dtype=int, delimiter=",", skiprows=1
        )[:, 0]
        assert (np.diff(indices) > 0).all()
        if original:
            original_labels = getattr(original, f"{split}_labels")
            for label in range(10):
                first = np.flatnonzero(original_labels == label)[:number]
                assert indices[labels == label].tolist() == first.tolist()
            assert (images == getattr(original, f"{split}_images")[indices]).all()
    if original:
        assert sample.mean == pytest.approx(original.mean, abs=1e-12)
        assert sample.std == pytest.approx(original.std, abs=1e-12)
        assert sample.classes == original.classes
        assert (original.test_labels[sample.test_indices] == sample.test_labels).all()


def test_the_sample_keeps_the_statistics_of_all_training_images(sample):
    expected = [0.4914, 0.4822, 0.4465]
    for data in (sample, sample.subset(10), sample.train_val_split()):
        assert data.mean == pytest.approx(expected, abs=1e-4)
    assert sample.train_val_split().test_indices is None
    assert sample.subset(test=7).test_indices.tolist() == sample.test_indices[:7].tolist()


def test_statistics_and_normalising_are_those_of_the_training_images():
    data = images_like_cifar10()
    assert data.mean == pytest.approx(data.train_images.mean(axis=(0, 1, 2)) / 255)
    assert data.std == pytest.approx(data.train_images.std(axis=(0, 1, 2)) / 255)
    normalised = data.normalize(torch.from_numpy(data.train_images).permute(0, 3, 1, 2))
    assert normalised.dtype == torch.float32
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    assert normalised.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (normalised.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-4


def test_part_of_the_data_keeps_the_statistics_of_all():
    data = images_like_cifar10()
    part = data.subset(10)
    assert len(part.train_labels) == len(part.train_images) == 10
    assert len(part.test_labels) == 100
    assert np.array_equal([part.mean, part.std], [data.mean, data.std])


def test_validation_split_is_fixed_and_apart():
    data = images_like_cifar10(train=600)
    split, again = data.train_val_split(), data.train_val_split()
    assert np.array_equal(split.test_images, again.test_images)
    assert len(split.train_images) == 540
    assert len(split.test_images) == 60
    kept = {image.tobytes() for image in split.train_images}
    held = {image.tobytes() for image in split.test_images}
    assert not kept & held
    assert kept | held == {image.tobytes() for image in data.train_images}
    assert split.key != data.key


def batches(data, transform, *, seed, epoch, workers=0, batch_size=64):
    sampler = SeededBatchSampler(len(data.train_labels), batch_size, seed)
    sampler.epoch = epoch
    loader = make_train_loader(data, transform, sampler, workers)
    return torch.cat([images for images, _ in loader])


def test_augmentation_is_the_same_with_any_number_of_workers_and_new_in_every_epoch():
    data = images_like_cifar10()
    # One image again and again: two equal results can only come of an equal random stream.
    data.train_images[:] = data.train_images[0]
    transform = transforms.flip_shift(data.mean)
    first = batches(data, transform, seed=1, epoch=1)
    assert torch.equal(first, batches(data, transform, seed=1, epoch=1))
    assert torch.equal(first, batches(data, transform, seed=1, epoch=1, workers=2))
    for other in (dict(seed=1, epoch=2), dict(seed=2, epoch=1)):
        assert not torch.equal(first, batches(data, transform, **other))
    streams = {batch.numpy().tobytes() for batch in first.split(64) if len(batch) == 64}
    assert len(streams) == 600 // 64


def test_batches_are_uint8_and_channels_last():
    data = images_like_cifar10()
    loader = make_train_loader(data, None, SeededBatchSampler(600, 50, seed=0))
    images, labels = next(iter(loader))
    assert images.shape == (50, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


def test_a_transform_that_gives_no_bytes_is_refused():
    data = images_like_cifar10()
    for last, kind in ((A.Normalize(), "float32"), (A.pytorch.ToTensorV2(), "torch.uint8")):
        remedy = f"gives {kind}, expected uint8: leave out Normalize and ToTensorV2"
        with pytest.raises(TypeError, match=remedy):
            batches(data, A.Compose([last]), seed=0, epoch=1)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (1, 32), (64, 64)])
def test_a_transform_that_changes_the_size_is_refused(height, width):
    resize = A.Compose([A.Resize(height, width)])
    with pytest.raises(TypeError, match=rf"\({height}, {width}, 3\), expected \(32, 32, 3\)"):
        batches(images_like_cifar10(), resize, seed=0, epoch=1)


@hypothesis_settings(deadline=None)
@given(
    size=st.integers(4, 300),
    batch_size=st.integers(1, 64),
    processes=st.integers(1, 4),
    epoch=st.integers(0, 5),
)
def test_every_image_is_in_one_batch_of_one_process(size, batch_size, processes, epoch):
    batch_size *= processes
    samplers = [
        SeededBatchSampler(size, batch_size, 3, rank, processes) for rank in range(processes)
    ]
    for sampler in samplers:
        sampler.epoch = epoch
    seen = np.concatenate([indices for sampler in samplers for indices, _ in sampler])
    assert len(set(seen)) == len(seen) == size - size % processes
    assert set(seen) <= set(range(size))
    shares = [[len(indices) for indices, _ in sampler] for sampler in samplers]
    assert all(share == shares[0] and min(share, default=1) > 0 for share in shares)
    assert all(len(sampler) == len(shares[0]) for sampler in samplers)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="batch_size 100 cannot be shared by 3"):
        SeededBatchSampler(1000, 100, 0, processes=3)


def test_validation_is_split_before_the_profile_cuts():
    settings = Settings(PROFILES["smoke"], "sample")
    part = data_module.load_data(settings, validation=True)
    assert len(part.train_labels) == 32
    assert len(part.test_labels) == 50
    assert part.title.endswith("sample (validation split), first 50 validation images")
    reused = data_module.load_data(replace(settings, reuse=True), validation=True)
    assert len(reused.train_labels) == 4_500, "a saved run is shown on all images"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve a tiny CIFAR-10 of the right form, and make torchvision expect its MD5 sums."""
    content, sums = tiny_cifar10.packed(images=2)
    for name, value in sums.items():
        monkeypatch.setattr(CIFAR10, name, value)

    class Handler(http.server.BaseHTTPRequestHandler):
        def respond(self, body):
            if self.path.startswith("/missing"):
                return self.send_error(404)
            if self.path.startswith("/no-head") and not body:
                return self.send_error(405)
            served = content[:-10] if self.path.startswith("/truncated") else content
            self.send_response(200)
            self.send_header("Content-Length", str(len(served)))
            self.end_headers()
            if body:
                self.wfile.write(served)

        def do_HEAD(self):
            self.respond(body=False)

        def do_GET(self):
            self.respond(body=True)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    yield lambda *paths: tuple(f"{address}/{p}/cifar-10-python.tar.gz" for p in paths)
    httpd.shutdown()
    httpd.server_close()


def test_download_takes_the_first_source_that_answers_and_is_whole(server, tmp_path, capsys):
    root = tmp_path / "data"
    sources = server("missing", "truncated", "no-head", "unused")
    data_module.download_cifar10(root, sources)
    data = data_module.load_cifar10(root)
    assert len(data.train_labels) == 10
    assert data.train_images.flags.c_contiguous
    assert data.train_images.shape == (10, 32, 32, 3)
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]
    assert "unused" not in capsys.readouterr().out


def test_a_damaged_copy_is_fetched_again_before_anything_is_unpickled(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(data_module.download_cifar10, "__defaults__", (server("good"),))
    data_module.load_cifar10(tmp_path)
    damaged = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    damaged.write_bytes(b"cos\nsystem\n(S'touch unpickled'\ntR.")
    monkeypatch.chdir(tmp_path)
    data_module.load_cifar10(tmp_path)
    assert not (tmp_path / "unpickled").exists()


def test_no_source_is_a_clear_error_with_what_to_do(server, tmp_path):
    with pytest.raises(DataUnavailableError, match=r"Set CIFAR10_ROOT.*DATASET=sample") as error:
        data_module.download_cifar10(tmp_path, server("truncated"))
    assert "truncated" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_archive_in_the_folder_is_unpacked_without_a_network(server, tmp_path):
    [url] = server("good")
    data_module.download_cifar10(tmp_path / "first", (url,))
    with urllib.request.urlopen(url) as archive:
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive.read())
    data_module.download_cifar10(tmp_path, ())
    assert len(data_module.load_cifar10(tmp_path).train_labels) == 10
    assert (tmp_path / "cifar-10-python.tar.gz").is_file(), "it is the user's own"


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
def test_a_damaged_batch_is_named(name, server, tmp_path):
    data_module.download_cifar10(tmp_path, server("good"))
    batch = tmp_path / "cifar-10-batches-py" / name
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DataUnavailableError, match=rf"CIFAR-10 is damaged \({name}\) in "):
        data_module.download_cifar10(tmp_path, ("http://127.0.0.1:9/x",))


def test_a_fallback_to_the_sample_names_damaged_files(monkeypatch, tmp_path, server, capsys):
    data_module.download_cifar10(tmp_path, server("good"))
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"cut")
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    refused = ("http://127.0.0.1:9/x",)
    monkeypatch.setattr(data_module.download_cifar10, "__defaults__", (refused,))
    capsys.readouterr()
    data_module.load_data(Settings(PROFILES["smoke"], "auto"))
    assert capsys.readouterr().out.startswith("CIFAR-10 is damaged (data_batch_2) in ")


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_sources(monkeypatch, tmp_path):
    monkeypatch.setattr(data_module.os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="cannot be written: set CIFAR10_ROOT") as error:
        data_module.download_cifar10(tmp_path / "new", ("http://127.0.0.1:9/x",))
    assert "127.0.0.1" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_the_root_may_be_the_folder_of_the_batches_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "cifar-10-batches-py"))
    assert cifar10_root() == tmp_path
    monkeypatch.setenv("CIFAR10_ROOT", "~/data")
    assert cifar10_root() == Path.home() / "data"


def test_what_a_killed_download_left_goes_with_the_next(server, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half")
    data_module.download_cifar10(tmp_path, server("good"))
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-batches-py"]


def test_a_full_disk_is_no_fault_of_the_sources(server, tmp_path, capsys):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # as if there were no more room
    try:
        with pytest.raises(OSError, match=r"py cannot be written: File too large; it takes 357"):
            data_module.download_cifar10(tmp_path / "data", server("good", "good"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "Skipped" not in capsys.readouterr().out


def test_sources_that_keep_silent_are_given_up(monkeypatch, tmp_path):
    # torchvision tries https, then http.
    assert 2 * len(data_module.MIRRORS) * data_module.TIMEOUT_SECONDS <= 30
    monkeypatch.setattr(data_module, "TIMEOUT_SECONDS", 0.5)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler, bind_and_activate=True
    ) as silent:  # listens, but nobody accepts
        started = time.monotonic()
        url = f"http://127.0.0.1:{silent.server_port}"
        with pytest.raises(DataUnavailableError, match=rf"{url}/a failed.*{url}/c failed"):
            data_module.download_cifar10(tmp_path, (f"{url}/a", f"{url}/b", f"{url}/c"))
        assert time.monotonic() - started < 3


def test_only_auto_falls_back_to_the_sample_and_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path))
    refused = ("http://127.0.0.1:9/cifar-10-python.tar.gz",)
    monkeypatch.setattr(data_module.download_cifar10, "__defaults__", (refused,))
    data = data_module.load_data(Settings(PROFILES["smoke"], "auto"))
    assert data.key == "sample"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "no connection" in lines[0]
    assert "sample in the repository" in lines[1]
    assert "CIFAR10_ROOT" in lines[2]
    assert len(data.train_labels) == 32
    with pytest.raises(DataUnavailableError):
        data_module.load_data(Settings(PROFILES["smoke"], "cifar10"))


def test_no_image_data_equals_another_and_each_can_be_hashed():
    data = images_like_cifar10()
    assert data == data
    assert data != data.subset(10)
    assert len({data, data.subset(10)}) == 2


def test_a_title_names_the_images_that_are_there():
    data = images_like_cifar10(train=600, test=100)
    assert data.title == "made"
    assert data.subset(10).title == "made"
    assert data.subset(None, 100).title == "made"
    assert data.subset(None, 60).title == "made, first 60 test images"
    assert data.subset(None, 60).subset(None, 40).title == "made, first 40 test images"
    # The test images of a split are others: what was left out before does not matter.
    assert data.subset(200, 60).train_val_split().subset(1_000).title == "made (validation split)"
    cut = data.train_val_split().subset(None, 5)
    assert cut.title == "made (validation split), first 5 validation images"
    assert replace(data, test_labels=data.test_labels[:9]).title == "made, first 9 test images"


@pytest.mark.parametrize(("test", "split", "full"), [
    (10_000, "test", True), (9_999, "test", False), (10_000, "validation", False),
])  # fmt: skip
def test_only_all_test_images_are_all_of_cifar10(test, split, full):
    data = images_like_cifar10(train=10, test=test)
    assert not data.is_full_cifar10
    assert replace(data, dataset="cifar10", split=split).is_full_cifar10 == full


def test_of_two_that_begin_at_once_one_downloads(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data_module.download_cifar10, "__defaults__", (server("good"),))
    with futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(data_module.load_cifar10, [tmp_path] * 2))
    assert [len(data.train_labels) for data in found] == [10, 10]
    assert capsys.readouterr().out.count("Downloading CIFAR-10") == 1
