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
# # Networks that are not training
#
# A run that was trained without convscope can be watched afterwards, from its checkpoints. And one network, trained
# by whatever loop, can be measured as it is. It takes half a minute on two CPU cores, on scikit-learn's digits.
#
# `pip install "convscope[recipes]"`

# %%
import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import convscope
from convscope.recipes.digits import DigitsCNN, digits_loaders

# %% [markdown]
# ## A run that was not watched
#
# Three epochs, a checkpoint after each, no callback of convscope.

# %%
L.seed_everything(0, verbose=False)
keep = ModelCheckpoint("checkpoints", filename="{epoch}", save_top_k=-1, enable_version_counter=False)
trainer = L.Trainer(max_epochs=3, callbacks=[keep], logger=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(DigitsCNN(), *digits_loaders())

# %% [markdown]
# ## Replay it
#
# The checks are made now, in the order of the checkpoints' steps. The module is left with the weights of the last
# one.

# %%
validation = digits_loaders()[1]
run = convscope.replay("checkpoints", DigitsCNN(), validation, callbacks="standard")
accuracy = run.values("probe", "accuracy")
for epoch, row in zip(run.epochs, accuracy.round(3), strict=True):
    print(f"after {epoch} epochs:", *row)
assert run.epochs.tolist() == [1, 2, 3]

# %% [markdown]
# ```text
# after 1 epochs: 0.822 0.89 0.938 0.93 0.922
# after 2 epochs: 0.776 0.908 0.974 0.972 0.972
# after 3 epochs: 0.776 0.926 0.99 0.996 0.994
# ```

# %% [markdown]
# `run.folder` has what a live run's folder has: `tensorboard --logdir` shows it, and `convscope report` makes a page
# of it.

# %%
print(run.folder, run.families)

# %% [markdown]
# ## One network, as it is
#
# Any `nn.Module`, here one that a plain PyTorch loop trains. `convscope.check` takes the network and the held-out
# samples, and leaves the network as it was.

# %%
net = nn.Sequential(
    nn.Conv2d(1, 12, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(12, 24, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(24 * 64, 10),
)
optimizer = torch.optim.AdamW(net.parameters(), 3e-3)


def measure() -> convscope.dashboard.Run:
    return convscope.check(net, convscope.HeldOut(validation, size=300), callbacks="standard")


before = measure()
for images, labels in digits_loaders()[0]:
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(images), labels).backward()
    optimizer.step()
after = measure()
for layer, one, other in zip(
    after.layers, before.values("probe", "accuracy")[-1], after.values("probe", "accuracy")[-1], strict=True
):
    print(f"{layer:8} {one:.3f} before one epoch, {other:.3f} after")

# %% [markdown]
# ```text
# 0        0.627 before one epoch, 0.657 after
# 2        0.827 before one epoch, 0.847 after
# output   0.677 before one epoch, 0.900 after
# ```

# %% [markdown]
# The network was trained for one epoch between the two checks and was measured by the same samples, so the difference
# is what the epoch taught it. Dead filters of the same two checks:

# %%
dead = after.values("health", "dead_filters")[-1]
print({layer: round(share, 3) for layer, share in zip(after.layers, dead.tolist(), strict=True) if share == share})

# %% [markdown]
# What is the same in a replay as in a live run, and what is not, is on the page [replay](../replay.md).
