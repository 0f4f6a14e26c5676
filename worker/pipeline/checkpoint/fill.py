"""Named tensors into a module built on the meta device.

Knows modules and names only. All keys are compared before the first number is read, so a module is filled whole or
not touched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from worker.pipeline.checkpoint.errors import CheckpointMismatch
from worker.pipeline.checkpoint.readers import Hold, Shape, TensorReader

log = logging.getLogger(__name__)

NameOf = Callable[[str], str | None]
"""From a key of a file to the module's own name; None for a key that is known and not used."""

Place = Callable[[nn.Module, str, Tensor], None]
"""Takes the tensor that has arrived for `name` of the module. What it keeps of it, and in which form, is its own
affair, but when all have arrived nothing of the module may be left on the meta device."""

HOST = torch.device("cpu")


def fill_from(
    module: nn.Module,
    reader: TensorReader,
    *,
    name_of: NameOf,
    device: torch.device,
    dtype: torch.dtype,
    place: Place,
    on_host: Collection[str] = (),
) -> None:
    """Every parameter and kept buffer of `module` from the reader to `place`, on `device`, floating numbers as `dtype`.

    Those that `on_host` names stay on the host, mapped where the file has the wanted type.
    Raises `CheckpointMismatch` before anything is read when keys are missing, unexpected or misshapen.
    """
    own_names = match_names(wanted_shapes(module), reader, name_of=name_of)
    moving = [key for key, name in own_names.items() if name not in on_host]
    staying = [key for key, name in own_names.items() if name in on_host]
    for keys, at, hold in ((moving, device, Hold.OWN), (staying, HOST, Hold.MAPPED)):
        began, numbers_bytes = time.monotonic(), 0
        for key, tensor in reader.read(keys, device=at, hold=hold):
            numbers_bytes += tensor.nbytes
            place(module, own_names[key], tensor.to(dtype) if tensor.is_floating_point() else tensor)
        if keys:
            seconds, gigabytes = time.monotonic() - began, numbers_bytes / 1e9
            how = "mapped" if hold is Hold.MAPPED else f"at {gigabytes / seconds:.2f} GB/s"
            log.info("%s: %.2f GB in %.1f s, %s", reader.origin, gigabytes, seconds, how)
    assert_filled(module)


def match_names(wanted: Mapping[str, Shape], reader: TensorReader, *, name_of: NameOf) -> dict[str, str]:
    """The module's name for each key that has to be read. Raises `CheckpointMismatch`."""
    shapes = reader.shapes()
    key_of: dict[str, str] = {}
    unexpected: list[str] = []
    for key in shapes:
        name = name_of(key)
        if name is None:
            continue
        if name not in wanted:
            unexpected.append(key)
        else:
            key_of.setdefault(name, key)  # some files hold the text embedding under two names
    missing = [name for name in wanted if name not in key_of]
    misshapen = [(key, wanted[name], shapes[key]) for name, key in key_of.items() if wanted[name] != shapes[key]]
    if missing or unexpected or misshapen:
        raise CheckpointMismatch(reader.origin, missing=missing, unexpected=unexpected, misshapen=misshapen)
    return {key: name for name, key in key_of.items()}


def wanted_shapes(module: nn.Module) -> dict[str, Shape]:
    """The parameters and kept buffers of a module; of one that has two names, the first."""
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    kept = module.state_dict(keep_vars=True)
    return shapes | {name: tuple(b.shape) for name, b in module.named_buffers() if name in kept}


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Makes `tensor` the parameter or buffer `name`, without gradient."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._buffers:
        owner._buffers[leaf] = tensor
    else:
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def assert_filled(module: nn.Module) -> None:
    """No tensor of the module is left without memory."""
    empty = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not empty, f"left on the meta device: {empty}"
