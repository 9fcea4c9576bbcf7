"""The protocol of directions: methods that turn the linearised objective into this rank's block of a direction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from distnewton.backend import Array
from distnewton.checkpoint.state import State
from distnewton.curvature.linearization import DampingForm, Linearization
from distnewton.directions.options import BatchNewtonOptions, FullBatchOptions, LearningRateOptions
from distnewton.frozen import frozen
from distnewton.network.layout import ParameterLayout
from distnewton.network.shapes import NetworkShape
from distnewton.options import Options
from distnewton.parallel.partition import Block
from distnewton.parallel.termination import EarlyTermination

Curvature = Literal["none", "cotangents", "jacobian", "roots"]
Role = Literal["direction", "solver", "proposal"]
"""Roles of a direction: the direction of a stage, the solver of ``sgn``, the proposal of ``grouped_newton``."""
RoleOptions = Mapping[Role, tuple[type[Options], ...]]
Presets = Mapping[Role, Mapping[str, Any]]


@frozen
class Family:
    """A kind of directions, which determines how the point moves along them.

    Attributes
    ----------
    name : str
        Description for messages and pages.
    options : type of Options
        Settings that all directions of the family have.
    batches : bool
        Whether the gradient is that of a mini-batch rather than of all samples.
    newton : bool
        Whether steps are combined, line-searched and judged by their model; otherwise there is a learning rate.
    """

    name: str
    options: type[Options]
    batches: bool
    newton: bool


FULL_BATCH = Family("Newton steps on all samples", FullBatchOptions, batches=False, newton=True)
BATCH_NEWTON = Family("Newton steps on mini-batches", BatchNewtonOptions, batches=True, newton=True)
LEARNING_RATE = Family("learning rate on mini-batches", LearningRateOptions, batches=True, newton=False)
FAMILIES = (FULL_BATCH, BATCH_NEWTON, LEARNING_RATE)


@frozen
class DirectionResult:
    """A direction, and what happened on this rank while it was computed.

    Attributes
    ----------
    direction : Array of shape (n_params_local,)
        This rank's block.
    acceleration : Array of shape (n_params_local,) or None
        Half the second derivative of a curved step, theta + alpha d + alpha^2 a; None for a straight step. The model
        predicts the decrease from d alone.
    inner_iterations : int
        Number of CG steps on this rank.
    finished : bool
        Whether this rank met its own stopping rule; False if it was stopped because enough others had.
    residual : float
        Relative residual of the system that this rank solved; the largest of its blocks.
    note : str
        Problem that was repaired, the same on all ranks; empty if there was none.
    failure : str
        Reason why this rank has no direction; empty if it has one.
    step_sizes : tuple of float
        Step sizes of the groups, the same on all ranks, for directions that have them.
    rank : int
        Numerical rank of the matrix that this rank factorised, the least of its blocks; 0 if it factorised none.
    condition : float
        Estimate of that matrix's condition number, damping included; the largest of its blocks.
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
    """A method that computes directions, and declares all that the rest of the package needs to know about it.

    To add one, write a subclass and register it: :func:`distnewton.register`, or an entry point of the group
    ``distnewton.directions``.

    Parameters
    ----------
    options : Options or None
        Options of the stage, which include those of :attr:`own_options`; None for the defaults.
    **parts : object
        The components that fill :attr:`slots`, by the names of the slots.

    Attributes
    ----------
    name, help : str
        Value of ``method.direction``, and a one-line description.
    family : Family
        How the point moves along its directions.
    roles : frozenset of str
        Roles besides ``direction``: ``solver`` if it solves (G + lambda I) d = -g on any sample, so ``sgn`` can use it;
        ``proposal`` if ``grouped_newton`` can scale it.
    own_options : type of Options
        Its options in every role.
    role_options : mapping of str to tuple of type of Options
        Further options in individual roles.
    presets : mapping of str to mapping
        Defaults in individual roles that differ from those of the options' models.
    slots : tuple of str
        Options that name another component: ``preconditioner``, ``solver`` or ``proposal``.
    planned_as : str
        Direction of the cost model whose iterations cost as much: ``block_diagonal``, ``gauss_newton`` or ``dual``;
        empty if plans cannot tell.
    stops_early : bool
        Whether ranks solve independently, so that early termination applies.
    apart : bool
        Whether each replica of the grid computes its own direction from its own samples.
    curvature : str
        What it uses of the curvature sample: ``none`` (the gradient only), ``cotangents`` (of single outputs or of
        the loss), ``jacobian`` (of all outputs, or of a sketch), ``roots`` (the same with B = I).
    random_rows : bool
        Whether ``sketch = auto`` may take random cotangents in place of many outputs.
    damping_form : str
        Damping of its systems: ``identity`` for lambda I, ``diagonal`` for lambda diag(G).
    averages_gradient : bool
        Whether momentum, in steps with a learning rate, averages the gradients from which directions are computed
        rather than the directions.
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
        """Name in records, with the components in its slots if they determine the direction."""
        return self.name

    @abstractmethod
    def solve(self, problem: Linearization, termination: EarlyTermination) -> DirectionResult:
        """Compute this rank's block of a direction.

        Parameters
        ----------
        problem : Linearization
            The model around the current point.
        termination : EarlyTermination
            Takes this rank's notice that it has finished, and tells whether enough ranks have; not used by methods in
            which all ranks take the same steps.

        Returns
        -------
        DirectionResult
        """

    def set_mean_direction(self, direction: Array) -> None:  # noqa: B027 - nothing to learn by default
        """Receive the mean over replicas of the results of :meth:`solve`, if each replica has its own direction.

        Parameters
        ----------
        direction : Array of shape (n_params_local,)
            Direction of the step.
        """

    def step_taken(self, direction: Array, step_size: float) -> None:  # noqa: B027 - nothing to learn by default
        """Receive the step of the point, ``step_size * direction``; the direction is combined, clipped or has momentum.

        Parameters
        ----------
        direction : Array of shape (n_params_local,)
            This rank's block; copy it to keep it.
        step_size : float
            0 if the step was rejected; the same on all ranks.
        """

    def state(self) -> State:
        """Return what the direction keeps between calls, without copies; nothing by default."""
        return State()

    def restore(self, state: State, layout: ParameterLayout) -> None:  # noqa: B027 - nothing to restore by default
        """Restore a state into a new object with the same options, possibly from another grid.

        Parameters
        ----------
        state : State
            State from :meth:`state`, without factors if they belong to other blocks.
        layout : ParameterLayout
            This rank's blocks.
        """

    def check_memory(  # noqa: B027
        self, n_samples: int, n_out: int, itemsize: int, memory_mb: float, n_ranks: int = 1, n_params: int = 0
    ) -> None:
        """Refuse, before any data is read, a problem whose systems do not fit in memory; accepts all by default.

        Parameters
        ----------
        n_samples, n_out : int
            Samples of the curvature, and outputs of the network.
        itemsize : int
            Bytes per number.
        memory_mb : float
            Memory that a rank may use, in megabytes.
        n_ranks : int
            Number of ranks, over all replicas.
        n_params : int
            Number of variables of the network; 0 if unknown.

        Raises
        ------
        ConfigError
            If they do not fit; gives sizes that would.
        """

    def system_bytes(self, n_rows: int, itemsize: int, n_ranks: int, n_params: int = 0) -> float:
        """Return the bytes that a rank needs for a matrix in sample space.

        Parameters
        ----------
        n_rows, itemsize : int
            Rows of the matrix, and bytes per number.
        n_ranks : int
            Number of ranks, over all replicas.

        Returns
        -------
        float
            0, the default, if there is no such matrix.
        """
        return 0.0

    def n_vectors(self) -> int:
        """Number of vectors of its variables that a rank keeps between calls, as stored in checkpoints."""
        return 0

    def factor_size(self, shape: NetworkShape, block: Block) -> float:
        """Count the numbers in the curvature factors of a block and in their inverses.

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
    """Norm of the residual over that of the right-hand side; 0 if that is zero."""
    return residual_norm / b_norm if b_norm else 0.0
