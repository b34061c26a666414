"""Outputs: the backends of loggers, pictures, the printed table, alert files and webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convscope._lazy import imported_on_demand

if TYPE_CHECKING:
    from convscope.loggers.alerts import JsonlSink, alerts_markdown, read_jsonl
    from convscope.loggers.backend import Backend
    from convscope.loggers.backends import backend_of, register_backend
    from convscope.loggers.figures import cluster_order, correlation_heatmap, learning_map
    from convscope.loggers.mlflow_names import mlflow_name, tag_of_mlflow_name
    from convscope.loggers.table import layer_table
    from convscope.loggers.tensorboard import TensorBoardDashboard, depth_charts, escape_markdown
    from convscope.loggers.webhook import WebhookSink
    from convscope.loggers.writers import summary_writer

__all__ = [
    "Backend",
    "JsonlSink",
    "TensorBoardDashboard",
    "WebhookSink",
    "alerts_markdown",
    "backend_of",
    "cluster_order",
    "correlation_heatmap",
    "depth_charts",
    "escape_markdown",
    "layer_table",
    "learning_map",
    "mlflow_name",
    "read_jsonl",
    "register_backend",
    "summary_writer",
    "tag_of_mlflow_name",
]

# The command line prints reports with modules of this package that need no torch.
__getattr__ = imported_on_demand(
    __name__,
    {
        "Backend": "backend",
        "JsonlSink": "alerts",
        "TensorBoardDashboard": "tensorboard",
        "WebhookSink": "webhook",
        "alerts_markdown": "alerts",
        "backend_of": "backends",
        "cluster_order": "figures",
        "correlation_heatmap": "figures",
        "depth_charts": "tensorboard",
        "escape_markdown": "tensorboard",
        "layer_table": "table",
        "learning_map": "figures",
        "mlflow_name": "mlflow_names",
        "read_jsonl": "alerts",
        "register_backend": "backends",
        "summary_writer": "writers",
        "tag_of_mlflow_name": "mlflow_names",
    },
)
