"""What can go wrong, by whose fault: a file, an argument, the machine.

A message says in this order: which file, tensor or argument; what was found; what was expected; what to do.
"""
from __future__ import annotations


class SkipstoneError(Exception):
    """Base of every error that Skipstone raises on purpose."""


class FileError(SkipstoneError, ValueError):
    """A model file is damaged, incomplete or inconsistent."""


class ModelError(FileError):
    """A model file is well formed, but describes a model that Skipstone cannot run."""


class ArgumentError(SkipstoneError, ValueError):
    """An argument of a call is out of range or does not fit the others."""


class DeviceError(SkipstoneError, RuntimeError):
    """A device or instruction set was asked for that this machine cannot run."""


class OutOfMemory(SkipstoneError, MemoryError):
    """The machine has too little memory for what was asked."""


class DeviceOutOfMemory(DeviceError, OutOfMemory):
    """A device has too little memory for what was asked."""
