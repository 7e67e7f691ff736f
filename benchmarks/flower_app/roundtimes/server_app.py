"""Federated averaging that writes the time after each round to the file `out`, one line a round."""

import time

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


def initial_arrays(work: str) -> ArrayRecord:
    if work == "null":
        return ArrayRecord({"x": Array(np.array([0.5], dtype=np.float32))})
    random = np.random.default_rng(1)
    shapes = [(16, 1600), (1600, 16)]
    return ArrayRecord({
        f"layer.{i // 2}.lora_{'AB'[i % 2]}": Array(random.standard_normal(shapes[i % 2], dtype=np.float32) / 100)
        for i in range(288)
    })


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    nodes = int(config["nodes"])

    def stamp(round_number: int, arrays: ArrayRecord) -> None:
        with open(str(config["out"]), "a") as out:
            out.write(f"{round_number} {time.time()}\n")

    # All nodes first, so that the first round does not hold the time that they take to join.
    while len(list(grid.get_node_ids())) < nodes:
        time.sleep(0.1)
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes)
    strategy.start(grid=grid, initial_arrays=initial_arrays(str(config["work"])), num_rounds=int(config["rounds"]), evaluate_fn=stamp)
