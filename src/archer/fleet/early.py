"""The first seconds of a training process, most of which are importing and tracing in Python.

Other libraries' work goes to threads meanwhile, and no garbage is looked for: there is little, and looking
for it again and again among all that was imported takes 6% of the time to the first step.
"""

from __future__ import annotations

import ctypes
import gc
import os
from threading import Thread


def begin(device: str) -> list[Thread]:
    """Before PyTorch is imported. For a GPU ("cuda:1") the driver's context is started, and Triton's key of
    its own files computed, a second or two each, in which nothing else could be done.

    A machine without the libraries is left to say so later, where somebody asks for them.
    """
    gc.disable()
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


def over() -> None:
    """From now on garbage is collected as usual; what is there already is not looked through again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


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
