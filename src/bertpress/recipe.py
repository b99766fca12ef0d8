"""Recipes: YAML to a checked list of stages and back.  Every check runs before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from bertpress import plain_yaml
from bertpress.errors import RecipeError
from bertpress.methods.base import Guesser, Method, Need, Trait
from bertpress.methods.fields import suggest, validated
from bertpress.methods.registry import find
from bertpress.overrides import override, override_all
from bertpress.places import is_file
from bertpress.rules import check_grids, check_stage
from bertpress.training.settings import TrainSettings

Engine = Literal["openvino", "onnx"]


class Until(BaseModel):
    """When a repeated stage stops early; the last round that still held is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drop: float = Field(gt=0, le=100, description="Largest permitted loss against the teacher, in points.")


class Stage(BaseModel):
    """Methods that attach in order, one training run if ``train`` is given, and finish in order."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Lower-case words joined by hyphens.")
    methods: tuple[tuple[str, Method], ...] = ()
    train: TrainSettings | None = None
    repeat: int = Field(1, ge=1, le=1000, description="How often the stage runs.")
    until: Until | None = None
    start: Literal["previous", "pretrained"] = Field(
        "previous",
        description="Where the weights come from: the stage before, or the model as it was handed in.",
    )
    task_loss: bool = Field(
        True, description="Add the task's loss on the labels where no method brings it; false: the methods' own alone."
    )
    teacher: str = Field(
        "original", min_length=1, description="original, previous, pretrained, or the folder of a model."
    )
    data: Literal["task", "unlabelled"] = Field(
        "task", description="What the stage trains on: the task's rows, or text without labels."
    )
    tasks: dict[str, str] = Field(
        default_factory=dict,
        description="Other tasks that are learnt in turns with the run's own, each with the folder of its teacher.",
    )

    @property
    def guessers(self) -> frozenset[Guesser]:
        """Whose guesses of masked words the stage learns from; none where it trains on the task."""
        if self.data == "task":
            return frozenset()
        return frozenset().union(*(method.guessers() for _, method in self.methods))

    @property
    def by_labels(self) -> bool:
        """Whether training adds the task's loss on the labels, which no method brings or takes the place of."""
        told = any(method.supervises or method.unsupervised for _, method in self.methods)
        return self.train is not None and self.data == "task" and self.task_loss and not told

    @property
    def teaches(self) -> bool:
        """Whether the model learns its task here, from labels or from a teacher's answers."""
        trains = self.train is not None and self.data == "task"
        return self.by_labels or (trains and any(method.learns_task() for _, method in self.methods))


class Recipe(BaseModel):
    """A named list of stages, and the engines to export to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    cite: str = ""
    summary: str = ""
    stages: tuple[Stage, ...] = Field(min_length=1)
    fine_tune: TrainSettings = Field(
        TrainSettings(), description="How a model that is not fine-tuned becomes its own teacher."
    )
    labels: int | None = Field(
        None, ge=2, description="So many training rows, chosen by the seed, keep their label; the others are text."
    )
    export: tuple[Engine, ...] = ("openvino", "onnx")
    profile: str | None = None

    @classmethod
    def load(cls, source: str | Path, *, profile: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
        """A shipped recipe by its name, or a YAML file by its path.

        Args:
            source: ``quick``, ``path/to/recipe.yaml``.
            profile: one of the recipe's own profiles, a set of overrides under a name.
            overrides: ``path=value`` with dots, such as ``stages.0.train.epochs=1`` or
                ``stages.distil.use.prune/heads.keep=0.5``; they win over the profile.

        Raises:
            RecipeError: one line that names the place, the value and the bound.
        """
        place, text = _read(source)
        raw = read_mapping(text, place, "name and stages")
        return cls.parse(raw, place=place, profile=profile, overrides=overrides)

    @classmethod
    def parse(
        cls,
        raw: dict[str, Any],
        *,
        place: str = "recipe",
        profile: str | None = None,
        overrides: Sequence[str] = (),
    ) -> Recipe:
        """A recipe from plain data, as YAML gives it; see :meth:`load`."""
        profiles = raw.pop("profiles", None) or {}
        if profile is not None:
            if profile not in profiles:
                raise RecipeError(f'{place}: unknown profile "{profile}"; {suggest(profile, sorted(profiles))}')
            for path, value in (profiles[profile] or {}).items():
                override(raw, path, value, f"{place} profile {profile}")
            raw["profile"] = profile
        override_all(raw, overrides, "stages.0.train.epochs=1")
        stages = raw.get("stages")
        if not isinstance(stages, list) or not stages:
            raise RecipeError(f"{place}: stages must be a list of at least one stage")
        built = [_stage(stage, f"{place} stage {i + 1}", i) for i, stage in enumerate(stages)]
        tuning = validated(TrainSettings, raw.get("fine_tune") or {}, f"{place}, fine_tune")
        return validated(Recipe, {**raw, "stages": tuple(built), "fine_tune": tuning}, place)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :meth:`parse` turns into an equal recipe."""
        stages = []
        for stage in self.stages:
            plain = stage.model_dump(mode="json", exclude={"methods"}, exclude_none=True)
            plain["use"] = [{name: method.model_dump(mode="json")} for name, method in stage.methods]
            stages.append(plain)
        plain = self.model_dump(mode="json", exclude={"stages"}, exclude_none=True)
        return {**plain, "stages": stages}

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def methods(self) -> Iterator[tuple[Stage, str, Method]]:
        """Every method with its stage and name, in the order in which they attach."""
        for stage in self.stages:
            for name, method in stage.methods:
                yield stage, name, method

    def apart(self) -> Iterator[tuple[Stage, str]]:
        """The stages whose student reads other tokens than their teacher, each with the method that made it so."""
        before: str | None = None
        for stage in self.stages:
            before = None if stage.start == "pretrained" else before
            own = next((name for name, method in stage.methods if Trait.VOCABULARY in method.provides), None)
            if (name := own if stage.teacher == "previous" else own or before) is not None:
                yield stage, name
            before = own or before

    def check(self) -> None:
        """Refuse what cannot work, whatever the model: needs without a source, traits that exclude each other.

        Raises:
            RecipeError: naming the stage and the method.
        """
        traits: dict[Trait, str] = {}
        rounded: str | None = None
        for stage in self.stages:
            if stage.start == "pretrained":
                traits.clear()
            place = f"{self.name} stage {stage.name}"
            check_stage(stage, place)
            for name, method in stage.methods:
                if Need.TRAINING in method.requires and stage.train is None:
                    raise RecipeError(f"{place}, {name}: needs a stage that trains; give the stage a train section")
                for trait in method.conflicts & set(traits):
                    raise RecipeError(f"{place}, {name}: cannot follow {traits[trait]}, which leaves {trait.value}")
            check_grids(stage, place, rounded)
            if stage.train is not None or stage.start == "pretrained":
                rounded = None
            rounded = next((name for name, method in stage.methods if method.quantizes), rounded)
            for name, method in stage.methods:
                traits |= dict.fromkeys(method.provides, name)
        for stage, cause in self.apart():
            self.check_apart(stage, cause)

    def check_apart(self, stage: Stage, cause: str) -> None:
        """Refuse to compare tokens of two vocabularies; ``cause`` is what makes them two."""
        why = f"compares tokens with a teacher that reads others, by {cause}; leave it out"
        for name, method in stage.methods:
            if Need.TOKENS in method.requires:
                raise RecipeError(f"{self.name} stage {stage.name}, {name}: {why}")
        if "teacher" in stage.guessers:
            raise RecipeError(f"{self.name} stage {stage.name}, data=unlabelled: {why}")


def shipped() -> list[str]:
    """Names of the recipes that come with bertpress."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def read_mapping(text: str, place: str, keys: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; ``keys`` says in words what should be in it.

    Raises:
        RecipeError: it is not YAML, or holds something else.
    """
    try:
        raw = plain_yaml.parse(text)
    except ValueError as fault:
        raise RecipeError(f"{place}{' ' if str(fault).startswith('line ') else ': '}{fault}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{place}: must be a mapping with {keys}, not {type(raw).__name__}")
    return raw


def _folder() -> Any:
    return files("bertpress") / "recipes"


def _read(source: str | Path) -> tuple[str, str]:
    """What to call the recipe in messages, and its text."""
    name, path = str(source), Path(source)
    if name in shipped():
        return f"{name}.yaml", (_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    if is_file(path):
        try:
            return path.name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError as fault:
            raise RecipeError(f"{path.name}: byte {fault.start} is not UTF-8") from None
    if path.suffix in (".yaml", ".yml") or "/" in name:
        raise RecipeError(f"{name}: there is no such recipe file")
    raise RecipeError(f'unknown recipe "{name}"; {suggest(name, shipped())}')


def _stage(raw: Any, place: str, index: int) -> Stage:
    if not isinstance(raw, dict):
        raise RecipeError(f"{place}: must be a mapping, not {type(raw).__name__}")
    raw = {"name": f"stage-{index + 1}", **raw}
    use = raw.pop("use", None) or []
    if not isinstance(use, list):
        raise RecipeError(f"{place}: use must be a list of methods")
    methods = tuple(_method(item, place) for item in use)
    train = raw.pop("train", None)
    if train is not None:
        if not isinstance(train, dict):
            raise RecipeError(f"{place}: train must be a mapping, not {train!r}")
        train = validated(TrainSettings, train, f"{place}, train")
    if not methods and train is None:
        raise RecipeError(f"{place}: must use a method or train")
    return validated(Stage, {**raw, "methods": methods, "train": train}, place)


def _method(item: Any, place: str) -> tuple[str, Method]:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, dict) or len(item) != 1:
        raise RecipeError(f"{place}: each entry of use must be one method with its fields, not {item!r}")
    name, fields = next(iter(item.items()))
    try:
        method = find(str(name))
    except RecipeError as fault:
        raise RecipeError(f"{place}: {fault}") from None
    if fields is not None and not isinstance(fields, dict):
        raise RecipeError(f"{place}, {name}: fields must be a mapping, not {fields!r}")
    return str(name), validated(method, fields or {}, f"{place}, {name}")
