"""ServerApp: stock FedAvg over an adapter in a safetensors file. Writes down what the nodes replied."""

import json
import struct

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    arrays = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        arrays[name] = np.frombuffer(data[begin:end], dtype={"F32": np.float32}[tensor["dtype"]]).reshape(tensor["shape"])
    return arrays


class Recording(FedAvg):
    def __init__(self):
        super().__init__(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
        self.rounds = []

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.rounds.append([dict(reply.content["metrics"]) if reply.has_content() else reply.error.reason for reply in replies])
        return super().aggregate_train(server_round, replies)


@app.main()
def main(grid, context):
    config = context.run_config
    start = read_safetensors(config["adapter"])
    strategy = Recording()
    result = strategy.start(grid=grid, num_rounds=int(config["num-server-rounds"]),
                            initial_arrays=ArrayRecord({key: Array(value) for key, value in start.items()}))
    moved = sum(float(np.abs(result.arrays[key].numpy() - value).sum()) for key, value in start.items())
    with open(config["out"], "w", encoding="utf-8") as out:
        json.dump({"rounds": strategy.rounds, "moved": moved}, out)
