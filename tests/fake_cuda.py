"""A GPU with content, pretended on a machine without one.

Its tensors are PyTorch's own, on "meta", which knows sizes, strides, aliases and gradients but has
no content; that lies on the CPU, in a storage for each of theirs. A dispatch mode executes every
operation there and refuses to mix devices, as CUDA does. Python is told that "meta" is "cuda:0".
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch
import torch._dynamo  # looks all of torch over: before anything is replaced
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from helpers import device

CUDA, META, CPU = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")
OWN = {name: getattr(torch._C.TensorBase, name) for name in ("device", "to", "numpy", "data_ptr")}
CLONED, COPIED, ADDRESS = (getattr(torch.UntypedStorage, n) for n in ("clone", "cpu", "data_ptr"))
COPIES = {"copy_", "_foreach_copy_"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # by tensors on the CPU, too
# Beside those that are tagged as pointwise, these take a single number that lies on the CPU.
WITH_NUMBERS = {"masked_fill", "masked_fill_", "fill_", *INDEXED}
SLOW_IN_HALF = {"convolution", "convolution_backward", "mm", "addmm", "bmm"}  # on a CPU


def there(value: object) -> bool:
    """Whether it is a tensor on the pretended GPU."""
    return isinstance(value, Tensor) and OWN["device"].__get__(value).type == "meta"


def translated(value: object) -> object:
    """A device of Python's as C++ knows it; all else as it is."""
    return META if isinstance(value, torch.device) and value.type == "cuda" else value


class Memory:
    """The contents: a storage on the CPU for each on the pretended GPU, by their identities."""

    def __init__(self) -> None:
        self.contents, self.owners = {}, {}

    def bind(self, storage: torch.UntypedStorage, content: torch.UntypedStorage) -> None:
        """Put a content behind a storage, and forget those of storages that are gone."""
        self.contents[storage._cdata] = StorageWeakRef(storage), content
        self.owners[content._cdata] = storage._cdata
        if len(self.contents) > 4_000:
            for key in [k for k, (owner, _) in self.contents.items() if owner.expired()]:
                _, content = self.contents.pop(key)
                del self.owners[content._cdata]

    def behind(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        """The content of a storage."""
        content = self.contents[storage._cdata][1]  # KeyError: a hole in the pretence
        if content.nbytes() < storage.nbytes():
            content.resize_(storage.nbytes())
        return content

    def content(self, value: object) -> object:
        """The CPU's tensor behind one on the pretended GPU; all else as it is."""
        if not there(value):
            return value
        place = value.storage_offset(), value.size(), value.stride()
        return torch.empty(0, dtype=value.dtype).set_(self.behind(value.untyped_storage()), *place)

    def placed(self, value: object) -> object:
        """The tensor on the pretended GPU with this content, sharing memory as that does."""
        if not isinstance(value, Tensor):
            return value
        content = value.untyped_storage()
        owner, _ = self.contents.get(self.owners.get(content._cdata), (None, None))
        if owner and not owner.expired():
            storage = torch.UntypedStorage._new_with_weak_ptr(owner.cdata)
        else:
            self.owners.pop(content._cdata, None)
            storage = torch.UntypedStorage(content.nbytes(), device="meta")
            self.bind(storage, content)
        place = value.storage_offset(), value.size(), value.stride()
        return torch.empty(0, dtype=value.dtype, device="meta").set_(storage, *place)


MEMORY = Memory()


class FakeCuda(TorchDispatchMode):
    """Executes what happens on the pretended GPU; RuntimeError where CUDA would raise one."""

    def __torch_dispatch__(self, func, _, args=(), kwargs=None):
        """Execute an operation where its tensors are."""
        args, kwargs = tree_map(translated, (args, kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        wanted = next((value for value in leaves if isinstance(value, torch.device)), None)
        if wanted in (None, CPU) and not any(map(there, leaves)):
            return func(*args, **kwargs)
        with self:  # in inference mode, operations arrive that consist of others
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        name, returns = func._schema.name.removeprefix("aten::"), func._schema.returns
        outputs = [value.alias_info for value in returns]
        written = [
            kwargs.get(a.name, args[i] if i < len(args) else None)
            for i, a in enumerate(func._schema.arguments)
            if a.alias_info and a.alias_info.is_write
        ]
        self.check(func, name, args, kwargs, written, wanted)
        seen = any(info and not info.is_write for info in outputs)
        if seen or torch.Tag.inplace_view in func.tags or name == "set_":
            return func(*args, **kwargs)  # a view, which PyTorch keeps track of
        with torch.inference_mode(False), torch.no_grad():
            args, kwargs = tree_map(MEMORY.content, (args, kwargs))
            kwargs |= {"device": CPU} if "device" in kwargs else {}
            made = executed(func, name, args, kwargs)
        if wanted == CPU or name == "_local_scalar_dense":
            return made
        given = iter(written)
        made = [made] if len(returns) == 1 else made or []
        made = [
            next(given) if info and info.is_write else tree_map(MEMORY.placed, value)
            for info, value in zip(outputs, made, strict=True)
        ]
        return made[0] if len(returns) == 1 else tuple(made) or None

    def check(self, func, name, args, kwargs, written, wanted) -> None:
        """RuntimeError where CUDA raises one: a tensor or a generator is not where others are."""
        if kwargs.get("generator") and (wanted or META) != CPU:
            raise RuntimeError(f"Expected a 'cuda' device type for generator in {func}")
        read = args[2:] if name in INDEXED and there(args[0]) else (args, kwargs)
        tensors = [value for value in tree_leaves(read) if isinstance(value, Tensor)]
        apart = [tensor for tensor in tensors if not there(tensor)]
        if name in COPIES or len(apart) in (0, len(tensors)):
            return
        numbers = torch.Tag.pointwise in func.tags or name in WITH_NUMBERS
        numbers = numbers or name.startswith(("_foreach_", "_fused_", "_amp_"))
        own = [id(value) for value in tree_leaves(written)]
        if bad := [t for t in apart if t.dim() or not numbers or id(t) in own]:
            found = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in bad)
            both = "Expected all tensors to be on the same device, but found cuda:0 and cpu"
            raise RuntimeError(f"{both}: {func}, on the CPU: {found}")


def executed(func, name, args, kwargs):
    """What an operation gives on the CPU, through float32 where float16 is slow there."""

    def cast(before, after, value):
        ours = isinstance(value, Tensor) and value.dtype == before
        return value.to(after) if ours else value

    half = any(getattr(v, "dtype", None) == torch.half for v in tree_leaves((args, kwargs)))
    if not half or name not in SLOW_IN_HALF:
        return func(*args, **kwargs)
    args, kwargs = tree_map(partial(cast, torch.half, torch.float), (args, kwargs))
    return tree_map(partial(cast, torch.float, torch.half), func(*args, **kwargs))


def in_the_type(function, dtype=None):
    """Autocast's part in a function, which "meta" lacks: autocast's type, or the one given."""

    def changed(*args, **kwargs):
        if torch.is_autocast_enabled("cuda"):
            to = dtype or torch.get_autocast_dtype("cuda")
            cast = lambda v: v.to(to) if there(v) and v.is_floating_point() else v  # noqa: E731
            args, kwargs = tree_map(cast, (args, kwargs))
        return function(*args, **kwargs)

    return changed


def moved(make):
    """A function that C++ would carry out unseen: first on the CPU, then moved."""

    def made(*args, device=None, **kwargs):
        tensor = make(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


def to(self, *args, **kwargs):
    """As Tensor.to, where "cuda" is "meta"."""
    args = [torch.device(a) if isinstance(a, str) else translated(a) for a in args]
    if kwargs.get("device") is not None:
        kwargs["device"] = translated(torch.device(kwargs["device"]))
    return OWN["to"](self, *args, **kwargs)


def numpy(self, **options):
    """As Tensor.numpy, with CUDA's error."""
    if there(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
    return OWN["numpy"](self, **options)


def clone(storage):
    """As UntypedStorage.clone, with the content."""
    if storage.device != META:
        return CLONED(storage)
    new = torch.UntypedStorage(storage.nbytes(), device="meta")
    MEMORY.bind(new, CLONED(MEMORY.behind(storage)))
    return new


def behind(storage):
    """The storage, on the CPU the content of one on the pretended GPU."""
    return MEMORY.behind(storage) if storage.device == META else storage


@contextlib.contextmanager
def gpu(capability: tuple[int, int] = (7, 5)) -> Iterator[None]:
    """Let this machine seem to have a GPU; 7.5 is Colab's T4, which trains in float16."""
    functional, nothing = torch.nn.functional, lambda *_, **__: None
    state = {**vars(PartialState(cpu=True)), "device": CUDA}
    patches = [
        (device, "distributed_state", PartialState), (device, "num_workers", lambda: 0),
        (PartialState, "_shared_state", state), (AcceleratorState, "_shared_state", {}),
        (torch.cuda, "_lazy_init", nothing), (torch.cuda, "set_rng_state", nothing),
        (torch.cuda, "get_rng_state", lambda *_: torch.zeros(1)),
        (torch.cuda, "get_device_name", lambda *_: "Tesla T4"),
        (torch.cuda, "get_device_capability", lambda *_: capability),
        (torch.cuda, "is_bf16_supported", lambda *_: True),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (Tensor, "device", property(lambda t: CUDA if there(t) else OWN["device"].__get__(t))),
        (Tensor, "is_cuda", property(there)), (Tensor, "is_meta", property(lambda _: False)),
        (Tensor, "to", to), (Tensor, "cuda", lambda t: t.to(CUDA)), (Tensor, "numpy", numpy),
        (Tensor, "data_ptr", lambda t: OWN["data_ptr"](MEMORY.content(t))),
        (torch.UntypedStorage, "clone", clone),
        (torch.UntypedStorage, "cpu", lambda s: COPIED(behind(s))),
        (torch.UntypedStorage, "data_ptr", lambda s: ADDRESS(behind(s))),
        *((torch, name, moved(getattr(torch, name))) for name in ("tensor", "as_tensor")),
        *((functional, n, in_the_type(getattr(functional, n))) for n in ("conv2d", "linear")),
        (functional, "cross_entropy", in_the_type(functional.cross_entropy, torch.float32)),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict("os.environ", ACCELERATE_USE_CPU="false"))
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        stack.enter_context(FakeCuda())
        yield
