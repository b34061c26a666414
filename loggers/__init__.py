"""Where values go: TensorBoard dashboard, pictures, and the table printed at each epoch."""

from convscope.loggers._canvas import require_matplotlib
from convscope.loggers.figures import cluster_order, correlation_heatmap, learning_map
from convscope.loggers.table import layer_table
from convscope.loggers.tensorboard import TensorBoardDashboard, depth_charts, escape_markdown

__all__ = [
    "TensorBoardDashboard",
    "cluster_order",
    "correlation_heatmap",
    "depth_charts",
    "escape_markdown",
    "layer_table",
    "learning_map",
    "require_matplotlib",
]
