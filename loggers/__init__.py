"""Outputs: TensorBoard dashboard, pictures, the printed table, alert files and webhooks."""

from convscope.loggers.alerts import JsonlSink, alerts_markdown, read_jsonl
from convscope.loggers.figures import cluster_order, correlation_heatmap, learning_map
from convscope.loggers.table import layer_table
from convscope.loggers.tensorboard import TensorBoardDashboard, depth_charts, escape_markdown
from convscope.loggers.webhook import WebhookSink
from convscope.loggers.writers import summary_writer

__all__ = [
    "JsonlSink",
    "TensorBoardDashboard",
    "WebhookSink",
    "alerts_markdown",
    "cluster_order",
    "correlation_heatmap",
    "depth_charts",
    "escape_markdown",
    "layer_table",
    "learning_map",
    "read_jsonl",
    "summary_writer",
]
