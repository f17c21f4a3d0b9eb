"""What a training process can begin while it imports PyTorch: work of libraries, which needs no Python."""

from __future__ import annotations

import ctypes
import os
from threading import Thread


def begin(device: str) -> list[Thread]:
    """For a GPU ("cuda:1"): starts the driver's context, and computes Triton's key of its own files.

    Both would otherwise be done, a second or two each, while nothing else can be. A machine without the
    libraries is left to say so later, where somebody asks for them.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return []
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as PyTorch does before it starts the driver
    threads = [
        Thread(target=_start_driver, args=(int(index or 0),), daemon=True),
        Thread(target=_compute_key, daemon=True),
    ]
    for thread in threads:
        thread.start()
    return threads


def _start_driver(index: int) -> None:
    """The primary context of a device: the one that PyTorch uses. It stays until the process ends."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), index) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def _compute_key() -> None:
    """A hash of Triton's library (400 MB), which keys all kernels on disk; Triton keeps it."""
    try:
        from triton.runtime.cache import triton_key  # pyright: ignore[reportMissingImports]
    except ImportError:  # no Triton, or one that keeps it elsewhere
        return
    triton_key()
