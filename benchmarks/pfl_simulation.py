"""The peer of simulation.py, run by the Python of a virtual environment with pfl[pytorch] 0.6.0: COHORT ROUNDS.

One JSON line. The local step adds a constant to every array, as the nodes of adapter_federation do.
"""

import json
import resource
import sys
import time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel

cohort, rounds = int(sys.argv[1]), int(sys.argv[2])


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        shapes = [(16, 1600), (1600, 16)] * 144
        self.p = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(s)) for s in shapes])

    def loss(self, x, y, eval=False):
        return torch.zeros(())

    def metrics(self, x, y, eval=True):
        return {}


class Model(PyTorchModel):
    def evaluate(self, *args, **kwargs):
        return Metrics()


class ConstantStep(FederatedAveraging):
    def train_one_user(self, initial_model_state, model, user_dataset, central_context):
        with torch.no_grad():
            for p in model.pytorch_model.parameters():
                p.add_(0.01)
        return model.get_model_difference(initial_model_state), Metrics()


marks = [time.time()]
cpu = [time.process_time()]


class Tick(TrainingProcessCallback):
    def after_central_iteration(self, metrics, model, *, central_iteration):
        marks.append(time.time())
        cpu.append(time.process_time())
        return False, Metrics()


torch.set_num_threads(2)
net = Net()
model = Model(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), 1.0))
users = MinimizeReuseUserSampler(list(range(max(cohort, 1000))))
data = FederatedDataset(lambda user: Dataset((np.zeros((1, 1), np.float32), np.zeros(1, np.float32)), user_id=str(user)), users)
backend = SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByUser()])
hyper = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=0.1, local_batch_size=1)
marks[0], cpu[0] = time.time(), time.process_time()
ConstantStep().run(NNAlgorithmParams(rounds, 10**9, cohort, None), backend, model, hyper, hyper, [Tick()], send_metrics_to_platform=False)
print(json.dumps({
    "ms": [1e3 * (b - a) for a, b in zip(marks, marks[1:])],
    "cpu_ms": [1e3 * (b - a) for a, b in zip(cpu, cpu[1:])],
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
