"""How tensors are packed on disk.  The folder is the registry: each module holds one codec and is found by itself."""

from importlib import import_module
from pkgutil import iter_modules

from bertpress.artifact.codecs.base import VALUES, AnyCodec, Codec, TensorSpec, spec_of
from bertpress.artifact.codecs.dense import Dense
from bertpress.artifact.codecs.stored import Packed, Stored
from bertpress.artifact.codecs.uniform import on_grid

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["VALUES", "AnyCodec", "Codec", "Dense", "Packed", "Stored", "TensorSpec", "on_grid", "spec_of"]
