"""``[method]``: which direction, with which options, and in which order of stages.

Every option belongs to some directions only. Giving one to a direction that does not use it is an error, so that no
setting is ever silently without effect; a direction's own defaults are in :data:`PRESETS`.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from distnewton.config.sections import Section

FULL_BATCH = ("block_diagonal", "gauss_newton", "dual", "block_dual")
"""Directions of the Newton iteration: gradient of all samples, curvature of a subsample, line search."""
RATE = ("kfac", "mini_block_fisher", "grouped_newton", "sgd", "adam")
"""Directions of mini-batches whose step length is a learning rate."""
DIRECTION_NAMES = (*FULL_BATCH, "sgn", *RATE)

DirectionName = Literal[
    "block_diagonal", "gauss_newton", "dual", "block_dual", "sgn",
    "kfac", "mini_block_fisher", "grouped_newton", "sgd", "adam",
]  # fmt: skip
SolverName = Literal["block_diagonal", "gauss_newton", "dual", "block_dual", "kfac", "mini_block_fisher"]
PreconditionerName = Literal["none", "diagonal", "kfac", "mini_block_fisher"]
GroupsName = Literal["tensor", "kind", "rank", "all"]
ProposalName = Literal[
    "sgd", "adam", "kfac", "mini_block_fisher", "block_diagonal", "gauss_newton", "dual", "block_dual"
]

PRESETS: dict[str, dict[str, Any]] = {
    "sgn": {
        "batch": 512, "sketch": 2, "cg_max": 2, "cg_min": 1, "damping": 0.01, "damping_min": 1e-4,
        "preconditioner": "kfac", "statistics_period": 2, "inverse_period": 5,
    },
    "kfac": {"damping": 0.01, "average": 0.98, "statistics_period": 4, "inverse_period": 20},
    "mini_block_fisher": {"damping": 0.01, "average": 0.98, "statistics_period": 4, "inverse_period": 20},
    "sgd": {"batch": 128},
    "adam": {"batch": 128, "learning_rate": 1e-3},
}
"""What a direction's options are where they differ from those of :class:`StageConfig`."""
_OF_PROPOSALS = ("damping", "statistics_period", "inverse_period")
"""Presets that come along with a proposal of grouped_newton."""
_OF_NEWTON_PROPOSALS = {"damping": 0.1, "cg_max": 10}
"""Presets of proposals that solve with the curvature of each batch."""


def preset(direction: str, proposal: str) -> dict[str, Any]:
    """A direction's preset; what serves Newton steps on mini-batches serves proposals made of them."""
    own = PRESETS.get(direction, {})
    if direction != "grouped_newton":
        return own
    if proposal in FULL_BATCH:
        return own | _OF_NEWTON_PROPOSALS
    return own | {key: value for key, value in PRESETS.get(proposal, {}).items() if key in _OF_PROPOSALS}


def _stages(value: object) -> object:
    """Read ``kfac:20,sgn:5`` as stages: each a direction and its iterations."""
    if not isinstance(value, str):
        return value
    stages = []
    for part in filter(None, (p.strip() for p in value.split(","))):
        name, colon, number = part.partition(":")
        if not colon or not number.strip().isdigit():
            raise ValueError(f"a stage is written DIRECTION:ITERATIONS, as kfac:20, got {part!r}")
        stages.append({"direction": name.strip(), "iterations": int(number)})
    return stages


class StageOptions(Section):
    """A direction and its options."""

    direction: DirectionName = Field("block_diagonal", description="method of the direction")
    solver: SolverName = Field("block_diagonal", description="sgn: direction of each mini-batch")
    blocks: Literal["rank", "layer"] = Field("rank", description="whether a rank's block couples its layers")
    subsample: float = Field(0.05, gt=0.0, le=1.0, description="share of the samples whose curvature is used")
    subsample_min: int = Field(512, ge=1, description="but at least so many samples, as far as there are")
    batch: int = Field(256, ge=1, description="samples of a mini-batch")
    steps: int = Field(0, ge=0, description="mini-batches of an iteration; 0: as many as there are (a pass)")
    sketch: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="random output cotangents a sample in place of all outputs; 0: all, exact; auto: all of up "
        "to 64 outputs, else 16 (dual: all)",
    )
    jacobian: Literal["stored", "recomputed"] = Field(
        "stored",
        description="gauss_newton: keep the Jacobian's factors, or pass forward and backward at each CG step instead: "
        "no memory for them, but messages and time",
    )
    preconditioner: PreconditionerName = Field("none", description="preconditioner of CG")
    cg_tolerance: float = Field(0.1, ge=0.0, lt=1.0, description="relative residual at which CG stops")
    cg_max: int = Field(30, ge=1, description="most CG steps")
    cg_min: int = Field(3, ge=1, description="fewest CG steps")
    cg_stop: Literal["residual", "progress"] = Field(
        "residual", description="stop by the residual, or also by Martens' relative progress of the model"
    )
    warm_start: float = Field(0.0, ge=0.0, le=1.0, description="start CG from this multiple of the last solution")
    finish_fraction: float = Field(
        0.5, gt=0.0, le=1.0, description="share of finished ranks that ends the direction phase"
    )
    damping: float = Field(
        1.0, ge=0.0, allow_inf_nan=False, description="damping lambda of the curvature; the initial one where it adapts"
    )
    drop: float = Field(2.0 / 3.0, gt=0.0, le=1.0, description="factor of lambda after a good prediction")
    boost: float = Field(1.5, ge=1.0, allow_inf_nan=False, description="factor of lambda after a bad one")
    damping_min: float = Field(0.0, ge=0.0, allow_inf_nan=False, description="lambda does not drop below this")
    combine: Literal["previous", "scale", "none"] = Field(
        "previous", description="combine the direction with the last one, only scale it, or take it as it is"
    )
    sufficient_decrease: float = Field(1e-4, gt=0.0, lt=1.0, description="eta of the line search")
    line_search_max: int = Field(20, ge=1, description="most trials of the line search")
    statistics_decay: float = Field(0.95, ge=0.0, lt=1.0, description="decay of the averages of curvature factors")
    statistics_period: int = Field(1, ge=1, description="steps from one update of the factors to the next")
    inverse_period: int = Field(1, ge=1, description="steps from one factorisation to the next")
    mini_blocks: Literal["layer", "neuron"] = Field(
        "layer", description="mini_block_fisher: one block shared by a layer's neurons, or one for each neuron"
    )
    learning_rate: float = Field(0.1, gt=0.0, allow_inf_nan=False, description="step length")
    rate_decay: Literal["none", "linear", "cosine"] = Field(
        "none", description="how the step length falls to zero over the stage"
    )
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="share of the last step kept")
    average: float = Field(0.0, ge=0.0, lt=1.0, description="decay of the average of the iterates; 0: the last iterate")
    kl_clip: float = Field(0.001, gt=0.0, description="bound on the step's length in the metric; inf: none")
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="adam: decay of the mean gradient")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="adam: decay of the mean squared gradient")
    epsilon: float = Field(1e-8, gt=0.0, description="adam: added to the root of the mean square")
    groups: GroupsName = Field("tensor", description="grouped_newton: what shares a step length")
    proposal: ProposalName = Field("sgd", description="grouped_newton: direction whose groups are scaled")
    internal_damping: float = Field(10.0, ge=0.0, allow_inf_nan=False, description="grouped_newton: cubic damping")
    rate_period: int = Field(10, ge=1, description="grouped_newton: steps from one set of step lengths to the next")
    rate_momentum: float = Field(0.5, ge=0.0, lt=1.0, description="grouped_newton: share of the last lengths kept")
    negative_rates: bool = Field(False, description="grouped_newton: keep negative step lengths instead of 0")

    @model_validator(mode="before")
    @classmethod
    def _fill_presets(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        proposal = str(tree.get("proposal", cls.model_fields["proposal"].default))
        filled = preset(str(tree.get("direction")), proposal) | tree
        # a preset of an option that this solver has no use for would be refused like a given one
        used = used_options(*(str(filled.get(name, cls.model_fields[name].default)) for name in CHOICES))
        return {key: value for key, value in filled.items() if key in tree or key in used}

    @model_validator(mode="after")
    def _options_fit(self) -> StageOptions:
        known = set(StageOptions.model_fields)
        useless = sorted((self.model_fields_set & known) - self.used())
        problems = [self._no_effect(name) for name in useless]
        if "cg_min" in self.used() and self.cg_min > self.cg_max:
            problems.append(f"cg_min = {self.cg_min} must not exceed cg_max = {self.cg_max}")
        if self.jacobian == "recomputed" and self.sketch not in ("auto", 0):
            problems.append("sketch has no effect with jacobian = recomputed, which is exact")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def used(self) -> frozenset[str]:
        """Names of the options that have an effect with this direction, solver and preconditioner."""
        return used_options(self.direction, self.solver, self.preconditioner, self.proposal)

    @property
    def inner_direction(self) -> str:
        """The direction of each step: sgn's solver, grouped_newton's proposal, else the direction itself."""
        return inner_direction(self.direction, self.solver, self.proposal)

    @property
    def title(self) -> str:
        """The method in a few words."""
        words = [f"{self.direction} ({self.solver})" if self.direction == "sgn" else self.direction]
        used = self.used()
        words += [f"subsample {self.subsample:g}"] if "subsample" in used else [f"batches of {self.batch}"]
        words += [f"sketch {self.sketch}"] if "sketch" in used and self.sketch not in (0, "auto") else []
        words += [f"preconditioner {self.preconditioner}"] if self.preconditioner != "none" else []
        return ", ".join([*words, f"rate {self.learning_rate:g}"] if "learning_rate" in used else words)

    def _no_effect(self, name: str) -> str:
        """Message for an option that another direction would use."""
        chosen = f"direction = {self.direction}"
        if self.direction == "sgn" and name in used_options("sgn", "block_diagonal", "kfac", ""):
            chosen += f", solver = {self.solver}, preconditioner = {self.preconditioner}"
        if self.direction == "grouped_newton" and name in _options_of("grouped_newton"):
            chosen += f", proposal = {self.proposal}"
            chosen += f", preconditioner = {self.preconditioner}" if "preconditioner" in self.used() else ""
        users = [d for d in DIRECTION_NAMES if name in _options_of(d)]
        return f"{name} has no effect with {chosen}; it is for {', '.join(users)}"

    @model_serializer(mode="wrap")
    def _dump_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        useless = set(StageOptions.model_fields) - self.used()
        return {key: value for key, value in handler(self).items() if key not in useless}


_SOLVERS = (*FULL_BATCH, "kfac", "mini_block_fisher")
_PROPOSALS = (*_SOLVERS, "sgd", "adam")
CHOICES = ("direction", "solver", "preconditioner", "proposal")
"""Options on which it depends which others have an effect."""


def _options_of(direction: str) -> frozenset[str]:
    """Options that a direction uses with some solver, preconditioner or proposal."""
    methods = _PROPOSALS if direction == "grouped_newton" else _SOLVERS
    return frozenset().union(*(used_options(direction, s, "mini_block_fisher", s) for s in methods))


def inner_direction(direction: str, solver: str, proposal: str) -> str:
    """The direction of each step: sgn's solver, grouped_newton's proposal, else the direction itself."""
    return {"sgn": solver, "grouped_newton": proposal}.get(direction, direction)


def used_options(direction: str, solver: str, preconditioner: str, proposal: str) -> frozenset[str]:
    """Names of the options that have an effect.

    Parameters
    ----------
    direction, solver, preconditioner, proposal : str
        Values of the options of these names; the last three count only where they have an effect themselves.

    Returns
    -------
    frozenset of str
    """
    names = {"direction"}
    method = inner_direction(direction, solver, proposal)
    names |= {"subsample", "subsample_min"} if direction in FULL_BATCH else {"batch", "steps"}
    if direction == "sgn":
        names |= {"solver"}
    if direction in (*FULL_BATCH, "sgn"):
        names |= {"damping", "drop", "boost", "damping_min", "combine", "sufficient_decrease", "line_search_max"}
    else:
        names |= {"learning_rate", "rate_decay", "average"}
    # proposals with curvature or moments of their own are scaled by group as they come
    if direction in RATE and method != "adam" and (direction == method or method == "sgd"):
        names |= {"momentum"}
    if direction in {"kfac", "mini_block_fisher"}:
        names |= {"kl_clip"}
    if method in FULL_BATCH:
        names |= {"sketch", "damping"}
    if method in {"block_diagonal", "block_dual"}:
        names |= {"blocks"}
    if method == "block_diagonal" and direction != "grouped_newton":
        names |= {"finish_fraction"}
    if method in {"block_diagonal", "gauss_newton"}:
        names |= {"preconditioner", "cg_tolerance", "cg_max", "cg_min", "cg_stop", "warm_start"}
    if method == "gauss_newton":
        names |= {"jacobian"}
    factored = {method} | ({preconditioner} if "preconditioner" in names else set())
    if factored & {"kfac", "mini_block_fisher"}:
        names |= {"damping", "statistics_decay", "statistics_period", "inverse_period"}
    if "mini_block_fisher" in factored:
        names |= {"mini_blocks"}
    if method == "adam":
        names |= {"beta1", "beta2", "epsilon"}
    if direction == "grouped_newton":
        names |= {"groups", "proposal", "internal_damping", "rate_period", "rate_momentum", "negative_rates"}
    return frozenset(names)


class StageConfig(StageOptions):
    """A stage that comes before the last: a direction, its options, and for how many iterations."""

    iterations: int = Field(ge=1, description="iterations of the stage")


class MethodConfig(StageOptions):
    """``[method]``: the objective's regularisation, the direction, and stages that come before it."""

    C: float | str = Field(
        "l", description='regularisation theta^2 / (2C): a number, inf, or a multiple of l as "0.01 l"'
    )
    schedule: Annotated[list[StageConfig], BeforeValidator(_stages)] = Field(
        [], description="stages before this direction takes over, as kfac:20,sgn:5 (direction:iterations)"
    )

    @property
    def title(self) -> str:
        """The stages in a few words each."""
        stages = [f"{stage.title}, for {stage.iterations} iterations" for stage in self.schedule]
        return "; then ".join([*stages, super().title])

    @field_validator("C")
    @classmethod
    def _is_constant(cls, C: float | str) -> float | str:
        regularization_constant(C, 1)
        return C

    def regularization(self, n_samples: float) -> float:
        """1/C for a number l of training samples, or the sum of their weights."""
        C = regularization_constant(self.C, n_samples)
        return 0.0 if math.isinf(C) else 1.0 / C


_MULTIPLE_OF_L = r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)?\s*\*?\s*l\s*"


def regularization_constant(C: float | str, n_samples: float) -> float:
    """C as a number, for a number l of training samples.

    Parameters
    ----------
    C : float or str
        A number, or a multiple of l such as ``"0.01 l"``.
    n_samples : float
        l; where samples have weights, their sum.

    Returns
    -------
    float
        inf means no regularisation.

    Raises
    ------
    ValueError
        If C is neither a positive number nor a positive multiple of l.
    """
    if isinstance(C, str) and (match := re.fullmatch(_MULTIPLE_OF_L, C)):
        number = float(match[1] or 1) * n_samples
    else:
        number = 0.0 if isinstance(C, str) else C
    if not number > 0:
        raise ValueError(f'must be a positive number, inf, or a multiple of l such as "0.01 l", got {C!r}')
    return number
