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
# # First use
#
# Two lines make a run watched; the record of the run gives its numbers as arrays. It takes half a minute on two CPU
# cores. Nothing is downloaded: the data are scikit-learn's digits.
#
# `pip install "convscope[recipes]"`

# %%
from importlib.util import find_spec

import lightning as L
import numpy as np

import convscope
from convscope.recipes.digits import DigitsCNN, digits_loaders

# %% [markdown]
# ## Train
#
# `DigitsCNN` is an ordinary `LightningModule` of four convolutions. `convscope.suite()` is a list of callbacks; your
# model and your data stay as they are. The table is printed before training and after each epoch.

# %%
L.seed_everything(0, verbose=False)
trainer = L.Trainer(max_epochs=3, callbacks=convscope.suite(), enable_progress_bar=False, enable_model_summary=False)
trainer.fit(DigitsCNN(), *digits_loaders())

# %% [markdown]
# ```text
# …
# epoch 2
# layer         probe acc (ridge)  gini (taylor)  mean |ρ|  eff. rank  CKA prev   dead   Δw/w
# features.0.0              0.776          0.364     0.345      6.966     0.999  0.000  0.044
# features.1.0              0.926          0.333     0.139       13.1     0.982  0.000  0.165
# features.3.0              0.990          0.383     0.143       21.8     0.940  0.000  0.182
# features.4.0              0.996          0.274     0.253       11.0     0.876  0.000  0.232
# output                    0.994              –         –          –         –      –      –
# ```

# %% [markdown]
# Every value is also a Lightning metric: `EarlyStopping` and `ModelCheckpoint` can monitor it.

# %%
probes = {name: round(float(value), 3) for name, value in trainer.callback_metrics.items() if "probe/accuracy/" in name}
print(probes)

# %% [markdown]
# ## What do the layers know, and since when?
#
# The record has one row per check and one column per layer. `epochs` counts the epochs trained before a check, so
# that 0 is the untrained network.

# %%
run = convscope.read_run(trainer.log_dir)
accuracy = run.values("probe", "accuracy")
print("layers:", run.layers)
for epoch, row in zip(run.epochs, accuracy.round(3), strict=True):
    print(f"after {epoch} epochs:", *row)

# %% [markdown]
# ```text
# layers: ['features.0.0', 'features.1.0', 'features.3.0', 'features.4.0', 'output']
# after 0 epochs: 0.694 0.84 0.846 0.798 0.644
# after 1 epochs: 0.822 0.89 0.938 0.93 0.922
# after 2 epochs: 0.776 0.908 0.974 0.972 0.972
# after 3 epochs: 0.776 0.926 0.99 0.996 0.994
# ```

# %% [markdown]
# The second half of the network has learned most: its probes rise furthest.

# %%
gain = accuracy[-1] - accuracy[0]
for layer, value in zip(run.layers, gain, strict=True):
    print(f"{layer:14} {value:+.3f}")
assert run.layers[int(np.nanargmax(accuracy[-1]))] != run.layers[0]

# %% [markdown]
# ```text
# features.0.0   +0.082
# features.1.0   +0.086
# features.3.0   +0.144
# features.4.0   +0.198
# output         +0.350
# ```

# %% [markdown]
# ## Which filters matter, and which repeat each other?

# %%
layer = "features.3.0"
importance = run.filters("importance", layer)[-1]
print("most important filters:", importance.argsort()[::-1][:5].tolist())
print("least important filters:", importance.argsort()[:5].tolist())
correlation = run.correlation("correlation", layer)
for one, other, rho in correlation.pairs(least=0.4)[:3]:
    print(f"filters {one} and {other}: correlation {rho:.2f}")

# %% [markdown]
# ## A picture
#
# TensorBoard has learning maps of every quantity (`tensorboard --logdir lightning_logs`, the tab **convscope**). In a
# notebook matplotlib draws the same from the array.

# %%
from matplotlib.figure import Figure

figure = Figure(figsize=(5, 2.6), layout="constrained")
axes = figure.subplots()
drawn = axes.imshow(accuracy.T, vmin=0, vmax=1, aspect="auto")
axes.set_yticks(range(len(run.layers)), run.layers)
axes.set_xticks(range(len(run.epochs)), run.epochs)
axes.set(xlabel="epochs trained", title="probe accuracy")
figure.colorbar(drawn)
figure  # the last line of a cell is shown

# %% [markdown]
# ![Probe accuracy of five layers before training and after one, two and three epochs](../images/notebook-first-use.png)
#
# ## Everything as a table
#
# If pandas is installed; convscope itself does not need it.

# %%
if find_spec("pandas"):
    rows = run.to_pandas()
    print(rows[rows.quantity == "effective_rank_ratio"].tail(4).to_string())

# %% [markdown]
# What each number means is on its own page: [probe accuracy](../metrics/probe-accuracy.md),
# [importance](../metrics/filter-importance.md), [correlation](../metrics/filter-correlation.md),
# [drift](../metrics/representation-drift.md), [health](../metrics/filter-health.md). Next: [a replay of a run
# that was not watched](replay.md), [a metric of your own](extending.md).
