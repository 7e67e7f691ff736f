"""Flower wants one in every bundle. The server of this federation is `fedumm serve`, which brings its own strategy."""
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Not for `flwr run`."""
    raise RuntimeError("start this federation with run.sh: its strategy is in C++")
