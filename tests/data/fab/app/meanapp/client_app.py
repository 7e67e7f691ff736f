"""Moves the array "mean" towards this node's number, which is its partition id plus one."""
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train, and count in the context's state how often this node has done so in this run."""
    number = float(context.node_config["partition-id"]) + 1
    mean = msg.content["arrays"]["mean"].numpy()
    for _ in range(context.run_config["train.steps"]):
        mean = mean + context.run_config["train.rate"] * (number - mean)
    seen = context.state["seen"]["trained"] if "seen" in context.state else 0
    context.state["seen"] = ConfigRecord({"trained": seen + 1})
    return Message(RecordDict({
        "arrays": ArrayRecord({"mean": Array(mean.astype(np.float32))}),
        "metrics": MetricRecord({"num-examples": int(number), "trained": seen + 1,
                                 "round": int(msg.content["config"]["server-round"])}),
        "said": ConfigRecord({"note": context.run_config["note"], "verbose": context.run_config["verbose"]}),
    }), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """The distance to this node's number."""
    number = float(context.node_config["partition-id"]) + 1
    loss = float(np.abs(msg.content["arrays"]["mean"].numpy() - number).mean())
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": int(number), "loss": loss})}), reply_to=msg)
