"""Options that several directions share, a model each; a direction's own options are in its own file.

The options of a stage are the union of the models of its parts (:mod:`distnewton.directions.composition`), so an option
without effect is an unknown key.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distnewton.options import Options


class DampingOptions(Options):
    """lambda of G + lambda I."""

    damping: float = Field(1.0, ge=0.0, allow_inf_nan=False, description="lambda; the first where it adapts")


class NewtonOptions(Options):
    """A Newton step after its direction: combination, line search and adaptation of the damping."""

    damping_threshold: float = Field(
        0.5, ge=0.25, lt=1.0, description="ratio of actual to predicted decrease above which lambda falls"
    )
    drop: Literal["nielsen"] | Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        "nielsen", description="factor of lambda after a good prediction; nielsen: a factor that follows the ratio"
    )
    boost: float = Field(
        1.5, ge=1.0, allow_inf_nan=False, description="factor of lambda after a bad prediction, where drop is a number"
    )
    damping_min: float = Field(0.0, ge=0.0, allow_inf_nan=False, description="lower bound of lambda")
    combine: Literal["previous", "scale", "none"] = Field(
        "previous", description="combine the direction with the last one, only scale it, or take it as it is"
    )
    sufficient_decrease: float = Field(1e-4, gt=0.0, lt=1.0, description="eta of the line search")
    line_search_max: int = Field(20, ge=1, description="most trials of the line search")


class FullBatchOptions(NewtonOptions):
    """Newton steps with the gradient of all samples."""

    damping: Literal["auto"] | Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        "auto",
        description="first lambda; auto: a tenth of the curvature along the gradient, or 1 where drop is a number",
    )
    subsample: float = Field(0.05, gt=0.0, le=1.0, description="share of the samples whose curvature is used")
    subsample_min: int = Field(512, ge=1, description="least number of samples whose curvature is used, if there are")
    parts: int = Field(
        1,
        ge=1,
        description="steps of a run's first iteration, each on a part of the samples; the next one has half as many",
    )


class BatchOptions(Options):
    """Steps on mini-batches."""

    batch: int = Field(256, ge=1, description="samples of a mini-batch")
    steps: int = Field(0, ge=0, description="mini-batches of an iteration; 0: as many as there are (a pass)")


class BatchNewtonOptions(BatchOptions, NewtonOptions, DampingOptions):
    """Newton steps on mini-batches."""


class LearningRateOptions(BatchOptions):
    """Steps of a learning rate on mini-batches."""

    learning_rate: float = Field(0.1, gt=0.0, allow_inf_nan=False, description="step length")
    rate_decay: Literal["none", "linear", "cosine"] = Field(
        "none", description="how the step length falls to zero over the stage"
    )
    average: float = Field(0.0, ge=0.0, lt=1.0, description="decay of the average of the iterates; 0: the last iterate")


class MomentumOptions(Options):
    """Heavy-ball momentum of steps of a learning rate."""

    momentum: float = Field(
        0.9,
        ge=0.0,
        lt=1.0,
        description="share of the last step that is kept; of dual that of the last direction that damping pulls to "
        "(SPRING), 0 by default",
    )


class ClipOptions(Options):
    """Bound on steps of a learning rate in the metric of their preconditioner."""

    kl_clip: float = Field(0.001, gt=0.0, description="bound on the step's length in the metric; inf: none")


class EarlyTerminationOptions(Options):
    """Early termination of ranks that solve on their own."""

    finish_fraction: float = Field(
        0.5, gt=0.0, le=1.0, description="share of finished ranks that ends the direction phase"
    )


class SketchOptions(Options):
    """Rows of the Jacobian that a direction uses."""

    sketch: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="random output cotangents a sample in place of all outputs; 0: all, exact; auto: all of up "
        "to 64 outputs, else 16 (dual: all)",
    )


class BlockOptions(Options):
    """What a rank's diagonal block is."""

    blocks: Literal["rank", "layer"] = Field("rank", description="whether a rank's block couples its layers")

    @property
    def by_layer(self) -> bool:
        """Whether blocks are cut by layer, the diagonalisation of [DNM]."""
        return self.blocks == "layer"


class DampingFormOptions(DampingOptions):
    """lambda, and the matrix that it multiplies."""

    damping_form: Literal["identity", "diagonal"] = Field(
        "identity", description="damp by lambda I, or by lambda diag(G), which does not depend on scales (Fletcher)"
    )


class AccelerationOptions(Options):
    """Geodesic acceleration of a Levenberg-Marquardt step."""

    acceleration: float = Field(
        0.0,
        ge=0.0,
        description="geodesic acceleration: the largest length of the acceleration against that of the step; 0: none",
    )


class CGOptions(DampingFormOptions):
    """Conjugate gradients on a damped Gauss-Newton system."""

    preconditioner: str = Field("none", description="preconditioner of CG")
    cg_tolerance: float = Field(0.1, ge=0.0, lt=1.0, description="relative residual at which CG stops")
    cg_max: int = Field(30, ge=1, description="most CG steps")
    cg_min: int = Field(3, ge=1, description="fewest CG steps")
    cg_stop: Literal["residual", "progress"] = Field(
        "residual", description="stop by the residual, or also by Martens' relative progress of the model"
    )
    warm_start: float = Field(0.0, ge=0.0, le=1.0, description="multiple of the last solution from which CG starts")

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.cg_min > self.cg_max:
            raise ValueError(f"cg_min = {self.cg_min} must not exceed cg_max = {self.cg_max}")
        return self

    @property
    def cg_progress(self) -> float:
        """Relative progress a step at which CG stops; 0 for the residual's rule alone."""
        return 5e-4 if self.cg_stop == "progress" else 0.0


class FactorOptions(DampingOptions):
    """Moving averages of curvature factors, and how often they are renewed."""

    statistics_decay: float = Field(0.95, ge=0.0, lt=1.0, description="decay of the averages of curvature factors")
    statistics_period: int = Field(1, ge=1, description="steps from one update of the factors to the next")
    inverse_period: int = Field(1, ge=1, description="steps from one factorisation to the next")
