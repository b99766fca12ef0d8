"""Artifacts: folders that stand alone.

Importing this package lets ``from_pretrained`` read packed weights.
"""

from bertpress.artifact.artifact import Artifact, load
from bertpress.artifact.codecs import Codec, Dense, Grid, Int8, Stored
from bertpress.artifact.manifest import Manifest, Parent
from bertpress.artifact.save import parent_of, save
from bertpress.artifact.load import unpack
from bertpress.encoder.model import unpackers

if unpack not in unpackers:
    unpackers.append(unpack)

__all__ = ["Artifact", "Codec", "Dense", "Grid", "Int8", "Manifest", "Parent", "Stored", "load", "parent_of", "save"]
