"""A PyTorch network, trained by Newton steps over all ranks, and trained on in PyTorch.

mpirun -n 4 python -m mpi4py torch_and_back.py
"""

import numpy as np
import torch
from mpi4py import MPI
from torch import nn

import distnewton
from distnewton.torch import from_torch, to_torch

comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)  # the same data on every rank
X = rng.standard_normal((600, 20)).astype(np.float32)
y = (X[:, :5] ** 2).sum(axis=1).astype(int) // 4 % 3

torch.manual_seed(0)  # and the same weights
network = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))
inputs, targets = torch.from_numpy(X), torch.from_numpy(y)


def loss_of(module):
    """Mean cross-entropy."""
    return nn.functional.cross_entropy(module(inputs), targets)


before = loss_of(network).item()
imported = from_torch(network, loss="cross_entropy", classes=[0, 1, 2])
config = distnewton.make_config({"network": imported.network, "run": {"iterations": 30}})
data = distnewton.ArraySource(X, y)
result = distnewton.train(config, comm, train_data=data, start=imported.model)
network = to_torch(result.model)  # the whole network, on every rank

if comm.rank == 0:
    after = loss_of(network).item()
    print(f"ranks {comm.size}, loss {before:.4f}, after {result.last.iteration} Newton iterations {after:.4f}")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss = loss_of(network)
        loss.backward()
        optimizer.step()
    print(f"after 100 steps of Adam {loss_of(network).item():.4f}")
