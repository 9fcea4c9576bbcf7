"""What a direction is: a method that turns the linearised objective into this rank's block of a direction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import DampingForm, Linearization
from distnewton.directions.options import BatchNewtonOptions, FullBatchOptions, LearningRateOptions
from distnewton.network.layout import ParameterLayout
from distnewton.network.shapes import NetworkShape
from distnewton.options import Options
from distnewton.parallel.partition import Block
from distnewton.parallel.termination import EarlyTermination

Curvature = Literal["none", "cotangents", "jacobian", "roots"]
Role = Literal["direction", "solver", "proposal"]
"""What a direction can be: the direction of a stage, the solver of ``sgn``, the proposal of ``grouped_newton``."""
RoleOptions = Mapping[Role, tuple[type[Options], ...]]
Presets = Mapping[Role, Mapping[str, Any]]


@dataclass(frozen=True)
class Family:
    """How a point moves along the directions of one kind.

    Attributes
    ----------
    name : str
        Words for it in messages and pages.
    options : type of Options
        Settings that all directions of the family have.
    batches : bool
        Whether the gradient is that of a mini-batch; else that of all samples.
    newton : bool
        Whether a step is combined, searched along and judged by its model; else it has a learning rate.
    """

    name: str
    options: type[Options]
    batches: bool
    newton: bool


FULL_BATCH = Family("Newton steps on all samples", FullBatchOptions, batches=False, newton=True)
BATCH_NEWTON = Family("Newton steps on mini-batches", BatchNewtonOptions, batches=True, newton=True)
LEARNING_RATE = Family("learning rate on mini-batches", LearningRateOptions, batches=True, newton=False)
FAMILIES = (FULL_BATCH, BATCH_NEWTON, LEARNING_RATE)


@dataclass(frozen=True)
class DirectionResult:
    """A direction and what happened on this rank while it was sought.

    Attributes
    ----------
    direction : Array of shape (n_params_local,)
        This rank's block.
    acceleration : Array of shape (n_params_local,) or None
        Half the second derivative of a curved step, theta + alpha d + alpha^2 a; None where it is straight. The model's
        prediction is that of d alone.
    inner_iterations : int
        CG steps of this rank.
    finished : bool
        Whether this rank met its own stopping rule; False when it was stopped because enough others had.
    residual : float
        Relative residual of the system that this rank solved; the largest over its blocks.
    note : str
        What went wrong and was mended, the same on all ranks; else empty.
    failure : str
        Why this rank has no direction; else empty.
    step_sizes : tuple of float
        Step sizes of the groups, the same on all ranks, of directions that have some.
    rank : int
        Numerical rank of the matrix that this rank factorised; 0 where it factorised none. The least over its blocks.
    condition : float
        Estimate of that matrix's condition number, damping included; the largest over its blocks.
    """

    direction: Array
    inner_iterations: int = 0
    finished: bool = True
    residual: float = 0.0
    note: str = ""
    failure: str = ""
    step_sizes: tuple[float, ...] = ()
    rank: int = 0
    condition: float = 0.0
    acceleration: Array | None = None


class Direction(ABC):
    """A method for the direction, which declares all that others need to know of it.

    To add one, write a subclass and register it: :func:`distnewton.register`, or an entry point of the group
    ``distnewton.directions``.

    Parameters
    ----------
    options : Options or None
        Those of the stage, or None for the defaults: an instance of :attr:`own_options`, among others.
    **parts : object
        The components that fill :attr:`slots`, by the names of the slots.

    Attributes
    ----------
    name, help : str
        Value of ``method.direction``, and what it does in a line.
    family : Family
        How the point moves along its directions.
    roles : frozenset of str
        Besides ``direction``: ``solver`` where it solves (G + lambda I) d = -g on any sample, so that ``sgn`` can use
        it; ``proposal`` where ``grouped_newton`` can scale it.
    own_options : type of Options
        Its options in every role.
    role_options : mapping of str to tuple of type of Options
        Further options in one role.
    presets : mapping of str to mapping
        Defaults of a role that differ from those of the options' models.
    slots : tuple of str
        Options that name another component: ``preconditioner``, ``solver`` or ``proposal``.
    planned_as : str
        Direction of the cost model, ``block_diagonal``, ``gauss_newton`` or ``dual``, whose iterations cost as much;
        empty where plans cannot tell.
    stops_early : bool
        Whether ranks solve apart from each other, so that early termination applies.
    apart : bool
        Whether each replica of the grid finds a direction of its own, with its own samples.
    curvature : str
        What it reads of the curvature sample: ``none`` (the gradient only), ``cotangents`` (of single outputs or of
        the loss), ``jacobian`` (of all outputs, or of a sketch), ``roots`` (the same with B = I).
    random_rows : bool
        Whether ``sketch = auto`` may take random cotangents in place of many outputs.
    damping_form : str
        Which damping its systems have: ``identity`` for lambda I, ``diagonal`` for lambda diag(G).
    averages_gradient : bool
        Whether momentum, in steps of a learning rate, averages the gradient before the direction is taken rather than
        the directions.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    family: ClassVar[Family] = FULL_BATCH
    roles: ClassVar[frozenset[Role]] = frozenset()
    own_options: ClassVar[type[Options]] = Options
    role_options: ClassVar[RoleOptions] = {}
    presets: ClassVar[Presets] = {}
    slots: ClassVar[tuple[str, ...]] = ()
    planned_as: ClassVar[str] = ""

    stops_early: bool = False
    apart: bool = False
    curvature: Curvature = "none"
    random_rows: bool = True
    damping_form: DampingForm = "identity"
    averages_gradient: bool = False

    def __init__(self, options: Any = None, **parts: Any) -> None:
        self.options: Any = self.own_options() if options is None else options

    @property
    def title(self) -> str:
        """Its name in records, with what fills its slots where that decides the direction."""
        return self.name

    @abstractmethod
    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Find this rank's block of a direction.

        Parameters
        ----------
        problem : Linearization
            The model around the current point.
        termination : EarlyTermination
            Where a rank says that it has finished and asks whether enough have; methods in which all ranks do the
            same steps leave it alone.

        Returns
        -------
        DirectionResult
        """

    def set_mean_direction(self, direction: Array) -> None:  # noqa: B027 - nothing to learn by default
        """Learn the mean over replicas of what :meth:`solve` returned, where each found a direction of its own.

        Parameters
        ----------
        direction : Array of shape (n_params_local,)
            The step's direction.
        """

    def step_taken(self, direction: Array, step_size: float) -> None:  # noqa: B027 - nothing to learn by default
        """Learn where the point moved: by ``step_size * direction``, which is combined, clipped or has momentum.

        Parameters
        ----------
        direction : Array of shape (n_params_local,)
            This rank's block; not to be kept without a copy.
        step_size : float
            0 when the step was rejected; the same on all ranks.
        """

    def state(self) -> State:
        """What it carries from one call to the next, without copies; nothing by default."""
        return State()

    def restore(self, state: State, layout: ParameterLayout) -> None:  # noqa: B027 - nothing to restore by default
        """Take over a state of a new object with the same options, perhaps from another grid.

        Parameters
        ----------
        state : State
            As of :meth:`state`; without factors where they belong to other blocks.
        layout : ParameterLayout
            This rank's blocks.
        """

    def check_memory(  # noqa: B027
        self, n_samples: int, n_out: int, itemsize: int, memory_mb: float, n_ranks: int = 1, n_params: int = 0
    ) -> None:
        """Refuse a problem whose systems do not fit, before any data is read; takes all by default.

        Parameters
        ----------
        n_samples, n_out : int
            Samples of the curvature, and outputs.
        itemsize : int
            Bytes of a number.
        memory_mb : float
            Megabytes that a rank may use.
        n_ranks : int
            Ranks of all replicas.
        n_params : int
            Variables of the network; 0 where they are not known.

        Raises
        ------
        ConfigError
            With the sizes that would fit.
        """

    def system_bytes(self, n_rows: int, itemsize: int, n_ranks: int, n_params: int = 0) -> float:
        """Bytes of a rank for a matrix in sample space.

        Parameters
        ----------
        n_rows, itemsize : int
            Its rows, and bytes of a number.
        n_ranks : int
            Ranks of all replicas.

        Returns
        -------
        float
            0, as by default, where it has none.
        """
        return 0.0

    def n_vectors(self) -> int:
        """Vectors of its variables that a rank keeps from one call to the next, as checkpoints have them."""
        return 0

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Numbers in its curvature factors of a block, and in their inverses.

        Parameters
        ----------
        shape : NetworkShape
            All layers.
        block : Block
            A block of one layer.

        Returns
        -------
        float
        """
        return 0.0


def relative(residual_norm: float, b_norm: float) -> float:
    """Residual over right-hand side, 0 where that is zero."""
    return residual_norm / b_norm if b_norm else 0.0
