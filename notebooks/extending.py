# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A metric of your own
#
# How *selective* is a filter: is it active for few samples, or for all? The lifetime sparseness of Vinje and Gallant
# (2000), written as a metric and watched in every layer while a network trains. It takes half a minute on two CPU
# cores, on scikit-learn's digits.
#
# `pip install "convscope[recipes]"`

# %%
import lightning as L
import torch
from torchmetrics import Metric

import convscope
from convscope.recipes.digits import DigitsCNN, digits_loaders

# %% [markdown]
# ## The metric
#
# For a filter with the mean activation `r` of each sample it is `(1 − mean(r)² / mean(r²)) / (1 − 1/N)`: 0 if the
# filter is equally active for all `N` samples, 1 if for a single one. Its states are sums, so that chunks and
# processes do not matter, in float64, so that their order does not.


# %%
class Sparseness(Metric):
    """Lifetime sparseness of each filter, ``(C,)``, of pooled activations ``(n, C)`` that are not negative."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("total", "squares"):
            self.add_state(name, torch.zeros(channels, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, pooled: torch.Tensor) -> None:
        self.total += pooled.double().sum(0)
        self.squares += pooled.double().square().sum(0)
        self.samples += len(pooled)

    def compute(self) -> torch.Tensor:
        active = self.squares > 0
        even = (self.total / self.samples).square() / (self.squares / self.samples).clamp(min=1e-300)
        found = (1 - even) / (1 - 1 / self.samples)
        return torch.where(active, found, torch.nan)


# %% [markdown]
# A look at it alone, before it goes anywhere near a network: one filter that is always on, one that is on for one
# sample of four.

# %%
metric = Sparseness(2)
metric.update(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 5.0]]))
print(metric.compute())
torch.testing.assert_close(metric.compute(), torch.tensor([0.0, 1.0], dtype=torch.float64))

# %% [markdown]
# ## The callback
#
# A `LayerObserver` says how a layer is measured. convscope chooses the layers, runs the held-out samples through the
# network once for all callbacks, restores everything, logs, draws the learning map, and saves the state in
# checkpoints.


# %%
class FilterSparseness(convscope.LayerObserver):
    """Mean sparseness of a layer's filters, 0 to 1."""

    family = "sparseness"
    charts = {"mean": "lifetime sparseness"}
    maps = {"mean": convscope.MapSpec("Sparseness", "sparseness", 0.0, 1.0)}

    def begin(self, layers, samples):
        self.found = convscope.PerLayer()
        self.found.make(layers, lambda layer: Sparseness(layer.channels))

    def on_activation(self, record):
        self.found.update(record, record.pooled.clamp(min=0))

    def compute(self, layer):
        values = self.found.compute(layer)
        return convscope.LayerResult({"mean": float(values.nanmean())}, distribution=values.cpu().numpy())


# %% [markdown]
# ## Watch it, with a rule
#
# Beside the suite, with which it shares the pass. `on_error="raise"` is for the time of writing: later a failure of
# yours costs one line in the log, and training goes on. `DriftAlert` watches every logged metric, yours too: here a
# rule that says at what time filters have become selective.

# %%
rule = {
    "name": "selective",
    "severity": "info",
    "when": [{"metric": "sparseness/mean/*", "detector": {"kind": "threshold", "limit": 0.5, "direction": "up"}}],
    "message": "filters of {layers} are active for few samples: {value:.2f}",
}
alert = convscope.DriftAlert(rules=[rule])
L.seed_everything(0, verbose=False)
callbacks = [*convscope.suite("light"), FilterSparseness(on_error="raise"), alert]
trainer = L.Trainer(max_epochs=3, callbacks=callbacks, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(DigitsCNN(), *digits_loaders())

# %%
run = convscope.read_run(trainer.log_dir)
for epoch, row in zip(run.epochs, run.values("sparseness", "mean").round(3), strict=True):
    print(f"after {epoch} epochs:", *row)
for incident in alert.incidents:
    print(f"{incident.duration}: {incident.text}")
assert "sparseness/mean/features.4.0" in trainer.callback_metrics

# %% [markdown]
# ```text
# after 0 epochs: 0.327 0.035 0.254 0.138 nan
# after 1 epochs: 0.019 0.055 0.339 0.527 nan
# after 2 epochs: 0.017 0.046 0.301 0.654 nan
# after 3 epochs: 0.017 0.042 0.291 0.683 nan
# open since epoch 0: filters of features.4.0 are active for few samples: 0.53. …
# ```

# %% [markdown]
# All methods that can be overridden, pictures, gradients, and how a metric is added to convscope itself:
# [extending](extending.md).
