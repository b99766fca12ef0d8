"""Artifacts: folders that stand alone, written whole, verified when read, packed as methods planned."""

from bertpress.artifact.artifact import Artifact, load
from bertpress.artifact.codecs import Codec, Dense, Stored
from bertpress.artifact.manifest import Manifest, Parent
from bertpress.artifact.save import parent_of, save

__all__ = ["Artifact", "Codec", "Dense", "Manifest", "Parent", "Stored", "load", "parent_of", "save"]
