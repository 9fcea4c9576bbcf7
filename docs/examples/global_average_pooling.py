"""Global average pooling: one value of each channel, the mean over its image."""

from __future__ import annotations

from distnewton.network.layer_tables import LayerTable
from distnewton.network.shapes import ShapeInProgress, Window


class GlobalAveragePooling(LayerTable):
    """The mean of each channel, behind a convolution's activation: one value is left of an image."""

    name, help = "global_avg_pool", "mean of each channel"

    def extend(self, shape: ShapeInProgress) -> None:
        """Pool the last convolution's channels by a window as large as the image."""
        shape.pool("average", Window(shape.image, shape.image))
