"""Adds a number that differs between nodes to every array: the replies share no objects, and all the time is the framework's."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    index = int(context.node_config.get("partition-id", 0))
    step = np.float32(0.01 + 0.0001 * index)
    arrays = ArrayRecord({key: Array(array.numpy() + step) for key, array in message.content["arrays"].items()})
    metrics = MetricRecord({"num-examples": 10 + index, "train_loss": 1.0})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
