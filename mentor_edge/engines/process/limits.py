"""The memory limit of a runtime's child process: the one place that decides it.

A damaged or hostile model file can ask for any amount. The child gets a limit before it opens the file, so that the
allocation fails there instead of taking the whole machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys

import psutil

from mentor_edge.engines.process.machine import memory_bytes

KV_LIMIT = 4 << 30
"""Bytes of all conversations' KV caches together; on a small machine, half of its memory."""
HEADROOM = 8 << 30
"""Bytes beyond the weights: caches, compute buffers, logits."""
CONTEXT_DEFAULT = 4096
"""Tokens of context that an engine allocates by default; many models allow far more, and each costs memory."""
_THREAD_STACK = 1 << 20


def kv_budget() -> int:
    """Bytes that the KV caches of all conversations may take together."""
    return min(KV_LIMIT, memory_bytes() // 2)


def limit_process(size: int) -> None:
    """Make allocations fail in this process if they exceed what a model of `size` bytes can need.

    Call it before the file is opened. It limits address space to the sum of what is mapped already, the file, and the
    lesser of this machine's memory and what caches, buffers and weights repacked for the processor can take.
    """
    if sys.platform == "win32":
        return
    _shrink_thread_stacks()
    limit_address_space(psutil.Process().memory_info().vms + size + min(2 * size + HEADROOM, memory_bytes()))


def limit_address_space(limit: int) -> None:
    """Limit this process to `limit` bytes of address space, or to its hard limit if that is lower. Also disable core
    dumps, so that a crash does not write the memory to the disk."""
    import resource  # not on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(ValueError, OSError):  # macOS does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _shrink_thread_stacks() -> None:
    """Give new threads 1 MiB of stack addresses instead of 8.

    llama.cpp checks every tensor of a file in its own thread, all at once. Measured: a model of 28 layers, as in
    Qwen3-0.6B, takes 2.5 GiB of addresses for these stacks alone, and on a machine with 2 GiB of memory or less it
    then does not load ("Resource temporarily unavailable"). A limit with room for such stacks would not limit memory.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "pthread_setattr_default_np"):  # glibc and musl have it
        return
    attributes = ctypes.create_string_buffer(256)  # pthread_attr_t has 56 or 64 bytes
    libc.pthread_attr_init(attributes)
    libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_THREAD_STACK))
    libc.pthread_setattr_default_np(attributes)
