"""``[method]``: the direction, its options, and the stages that come before it.

A stage has the options of its direction and of the components in the direction's slots
(:mod:`distnewton.directions.composition`); any other option is an error, so no setting is silently ignored.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from distnewton.directions.composition import ComponentError, Composition, possible_options
from distnewton.directions.registry import DIRECTIONS
from distnewton.errors import shown
from distnewton.options import Options

StageT = TypeVar("StageT", bound="StageOptions")
AUTO = "auto"
"""Value of ``method.direction``, and of other settings, that lets the data decide."""
NO_LIMIT = "unlimited"
"""Length of a stage that ends only where it no longer gains."""
_OF_ALL = ("direction", "C", "schedule", "iterations")
_OF_RATES = {"rate": "learning_rate", "damping": "damping"}
_PREFERRED = ("kfac", "block_diagonal")
"""Directions that are tried first where options are given without a direction."""


def _stages(value: object) -> object:
    """Read ``kfac:20,sgn:5`` as stages, each a direction and its number of iterations."""
    if not isinstance(value, str):
        return value
    stages = []
    for part in filter(None, (p.strip() for p in value.split(","))):
        name, colon, number = part.partition(":")
        if not colon or not number.strip().isdigit():
            raise ValueError(f"a stage is written DIRECTION:ITERATIONS, such as kfac:20, got {shown(part)}")
        stages.append({"direction": name.strip(), "iterations": int(number)})
    return stages


def _checked_constant(C: float | str) -> float | str:
    """Return C if it is a valid constant."""
    regularization_constant(C, 1)
    return C


def _options_of(base: "type[StageOptions]", tree: Mapping[str, Any]) -> Options:
    """Check the options of a direction, and refuse those that have no effect on it."""
    composition = _compose(tree)
    model = composition.model(base)
    useless = [name for name in tree if name not in model.model_fields and name in method_fields()]
    options = model.model_validate({name: value for name, value in tree.items() if name not in useless})
    if useless:
        raise ValueError("\n".join(_no_effect(name, composition) for name in sorted(useless)))
    return options


class StageOptions(Options):
    """A direction with its options, which the direction itself declares.

    Validation returns an instance of a subclass that has the fields of the named direction. A stage of
    ``block_diagonal``, for example, is also an instance of :class:`~distnewton.directions.options.CGOptions`.
    """

    direction: str = Field(
        AUTO, description="method of the direction; auto chooses one that suits the data, and the options of [method] "
        "if any are given"
    )  # fmt: skip

    @model_validator(mode="wrap")
    @classmethod
    def _with_options(cls: type[StageT], tree: Any, handler: ModelWrapValidatorHandler[StageT]) -> StageT:
        if cls not in (StageConfig, MethodConfig) or not isinstance(tree, Mapping):
            return handler(tree)
        if cls is StageConfig and tree.get("direction") == AUTO:
            raise ValueError("a stage must name its direction")
        tree = _with_direction(tree, _PREFERRED[-1] if cls is StageConfig else AUTO)
        if tree["direction"] == AUTO:
            return handler(tree)
        return cast(StageT, _options_of(cls, tree))

    def __reduce__(self) -> tuple[Any, ...]:
        # the class of an instance has no importable name
        base = MethodConfig if isinstance(self, MethodConfig) else StageConfig
        return base.model_validate, (self.model_dump(),)

    def has(self, model: type[Options]) -> bool:
        """Whether the stage has the options of a model."""
        return isinstance(self, model)

    def used(self) -> frozenset[str]:
        """Names of the options of this direction and of the components in its slots."""
        return frozenset(type(self).model_fields) - {"C", "schedule", "iterations"}

    @property
    def inner_direction(self) -> str:
        """The direction of each step: sgn's solver, grouped_newton's proposal, or else the direction itself."""
        inner: str = getattr(self, "solver", getattr(self, "proposal", self.direction))
        return inner

    @property
    def title(self) -> str:
        """The method in a few words."""
        if self.direction == AUTO:
            return AUTO
        used = self.used()
        words = [f"{self.direction} ({self.solver})" if "solver" in used else self.direction]
        words += [f"subsample {self.subsample:g}"] if "subsample" in used else [f"batches of {self.batch}"]
        words += [f"sketch {self.sketch}"] if "sketch" in used and self.sketch not in (0, "auto") else []
        preconditioner = getattr(self, "preconditioner", "none")
        words += [f"preconditioner {preconditioner}"] if preconditioner != "none" else []
        if "learning_rate" in used:
            words += [f"{word} {getattr(self, name):g}" for word, name in _OF_RATES.items() if name in used]
        return ", ".join(words)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """An option of the direction."""


class StageConfig(StageOptions):
    """A stage before the last one: a direction, its options and its number of iterations."""

    iterations: Literal["unlimited"] | Annotated[int, Field(ge=1)] = Field(
        description="largest number of iterations of the stage; unlimited: as many as gain by validation"
    )
    C: float | str = Field(AUTO, description="regularisation of this stage alone; auto: that of method.C")

    _C_is_constant = field_validator("C")(_checked_constant)

    @property
    def length(self) -> str:
        """How long the stage lasts, in words."""
        return "while it gains" if self.iterations == NO_LIMIT else f"for {self.iterations} iterations"


class MethodConfig(StageOptions):
    """``[method]``: the objective's regularisation, the direction, and the stages before it."""

    C: float | str = Field(
        AUTO, description='regularisation theta^2 / (2C): a number, inf, or a multiple of l as "0.01 l"; auto: l'
    )
    schedule: Annotated[list[SerializeAsAny[StageConfig]], BeforeValidator(_stages)] = Field(
        [], description="stages before this direction, such as kfac:20,sgn:5 (direction:iterations)"
    )

    @property
    def title(self) -> str:
        """All stages, in a few words each."""
        stages = [f"{stage.title}, {stage.length}" for stage in self.schedule]
        return "; then ".join([*stages, super().title])

    _C_is_constant = field_validator("C")(_checked_constant)

    def regularization(self, n_samples: float) -> float:
        """Return 1/C for l training samples, where l is their number or the sum of their weights."""
        return regularization(self.C, n_samples)


def default_method() -> MethodConfig:
    """Return the method of a recipe without ``[method]``."""
    return MethodConfig.model_validate({})


def _compose(tree: Mapping[str, Any]) -> Composition:
    """Compose the direction that settings name; report an unknown component under its key."""
    try:
        return Composition.of(_direction_name(tree), tree)
    except ComponentError as error:
        problem = PydanticCustomError("unknown_component", "{message}", {"message": str(error)})
        details = InitErrorDetails(type=problem, loc=(error.option,), input=tree.get(error.option))
        raise ValidationError.from_exception_data("method", [details]) from None


def _with_direction(tree: Mapping[str, Any], default: str = AUTO) -> Mapping[str, Any]:
    """Add the direction that the options imply, or the default where they imply none."""
    if tree.get("direction", AUTO) != AUTO:
        return tree
    options = {name for name in tree if name not in _OF_ALL and name in method_fields()}
    if options:
        return {**tree, "direction": _direction_with(options, tree)}
    # the user's own stages are followed by a Newton method
    return {**tree, "direction": _PREFERRED[-1] if tree.get("schedule") else default}


def _direction_with(options: set[str], tree: Mapping[str, Any]) -> str:
    """Return the first direction that has all of these options, or else the most of them."""
    names = dict.fromkeys((*_PREFERRED, *DIRECTIONS))

    def missing(name: str) -> int:
        try:
            model = Composition.of(name, tree).model(StageOptions)
        except ComponentError:
            return len(options)
        return len(options - set(model.model_fields))

    # min() returns the first of equals
    return min(names, key=missing)


def _direction_name(tree: Mapping[str, Any]) -> str:
    return str(_with_direction(tree)["direction"])


def method_fields() -> dict[str, FieldInfo]:
    """Collect every option that some direction has, with its default, which presets may change."""
    models = (model for direction in DIRECTIONS.available() for model in possible_options(direction))
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    return {**StageOptions.model_fields, **fields}


def users_of_options() -> dict[str, list[str]]:
    """List, for each option, the directions on which it has an effect with some filling of their slots."""
    users: dict[str, list[str]] = {}
    for direction in DIRECTIONS.available():
        for option in dict.fromkeys(key for model in possible_options(direction) for key in model.model_fields):
            users.setdefault(option, []).append(direction.name)
    return users


def default_options(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the components that settings name, with their defaults."""
    name = _direction_name(tree)
    model = StageOptions if name == AUTO else Composition.of(name, tree).model(StageOptions)
    return {name: field.default for name, field in model.model_fields.items()}


def _no_effect(name: str, composition: Composition) -> str:
    """Write the message for an option that only other directions use."""
    users = users_of_options()[name]
    chosen = f"direction = {composition.direction.name}"
    if composition.direction.name in users:
        chosen += "".join(f", {slot} = {filled}" for slot, filled in composition.chosen.items())
    return f"{name} has no effect with {chosen}; it is for {', '.join(users)}"


# possessive quantifiers: backtracking would take quadratic time
_MULTIPLE_OF_L = r"\s*+((?:[0-9]++\.?+[0-9]*+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+)?+\s*+\*?+\s*+l\s*+"


def regularization_constant(C: float | str, n_samples: float) -> float:
    """Return C as a number, for l training samples.

    Parameters
    ----------
    C : float or str
        A number, or a multiple of l such as ``"0.01 l"``; ``auto`` stands for l.
    n_samples : float
        The number l of samples, or the sum of their weights.

    Returns
    -------
    float
        Infinity means no regularisation.

    Raises
    ------
    ValueError
        If C is neither a positive number nor a positive multiple of l.
    """
    if C == AUTO:
        number = n_samples
    elif isinstance(C, str) and (match := re.fullmatch(_MULTIPLE_OF_L, C)):
        number = float(match[1] or 1) * n_samples
    else:
        number = 0.0 if isinstance(C, str) else C
    if not number > 0:
        raise ValueError(f'must be a positive number, inf, or a multiple of l such as "0.01 l", got {shown(C)}')
    return number


def regularization(C: float | str, n_samples: float) -> float:
    """Return 1/C for l training samples, where l is their number or the sum of their weights; 0 if C is infinite."""
    constant = regularization_constant(C, n_samples)
    return 0.0 if math.isinf(constant) else 1.0 / constant
