"""Every error that bertpress raises on purpose.

    BertpressError              a fault; exit status 1 unless a subclass says otherwise
    ├── UserError               the input is wrong; exit status 2
    │   ├── RecipeError         a recipe, a method or one of its fields
    │   ├── DataError           a task, a column, a data file, a label
    │   ├── ModelError          a model folder or name
    │   ├── ArtifactError       a file of an artifact is missing, corrupt or was changed
    │   ├── EngineError         an engine that is not installed or cannot run the artifact
    │   └── MachineError        disk, memory or permissions do not suffice
    └── Interrupted             stopped by the user, can be resumed; exit status 130

A message is one line that names the place, the value and the bound, such as
``recipe.yaml stage 2, prune/heads: keep=1.4 must be in (0, 1]``.
"""


class BertpressError(Exception):
    """Root of the hierarchy: a fault of ours unless a subclass says otherwise."""

    exit_status = 1

    def __str__(self) -> str:
        """One line that a terminal can show: what users' files bring along moves no cursor and starts no new line."""
        line = " ".join(super().__str__().split())
        return "".join(c if c.isprintable() else "\ufffd" for c in line)


class UserError(BertpressError):
    """The user's input is wrong; nothing was written."""

    exit_status = 2


class RecipeError(UserError):
    """A recipe, a method or one of its fields is unknown or out of bounds."""


class DataError(UserError):
    """A task, a column, a data file or a label is not usable."""


class ModelError(UserError):
    """A model folder or name cannot be used."""


class ArtifactError(UserError):
    """A file of an artifact is missing, corrupt or does not have its recorded hash."""


class EngineError(UserError):
    """The engine is not installed, or cannot run this artifact."""


class MachineError(UserError):
    """The machine lacks disk space, memory or a permission that the step needs."""


class Interrupted(BertpressError):
    """Stopped by the user; the run folder can be resumed."""

    exit_status = 130
