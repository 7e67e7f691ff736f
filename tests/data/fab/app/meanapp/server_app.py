"""FedAvg over the vector."""
import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Start from zeros."""
    strategy = FedAvg(weighted_by_key="num-examples")
    strategy.start(grid=grid, initial_arrays=ArrayRecord({"mean": Array(np.zeros(4, np.float32))}),
                   num_rounds=context.run_config["num-server-rounds"])
