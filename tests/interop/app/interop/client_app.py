"""ClientApp: adds a constant of its partition to every array. Reports what it was given, for the server to check."""

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from interop.arithmetic import step, weight

app = ClientApp()


def partition_of(context):
    return int(context.node_config["partition-id"])


@app.train()
def train(msg, context):
    partition = partition_of(context)
    scale, offset = float(context.run_config["scale"]), float(context.run_config["offset"])
    seen = int(context.state["rounds"]["seen"]) if "rounds" in context.state else 0
    context.state["rounds"] = MetricRecord({"seen": seen + 1})
    arrays = {
        key: Array(array.numpy() + array.numpy().dtype.type(step(partition, scale, offset)))
        for key, array in msg.content["arrays"].items()
    }
    metrics = {
        "num-examples": weight(partition),
        "partition-id": partition,
        "rounds-seen": seen + 1,
        "round": int(msg.content["config"]["server-round"]),
        "scale": scale,
        "offset": offset,
    }
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)}), reply_to=msg)


@app.train("fail")
def fail(msg, context):
    raise ValueError("this action always fails")


@app.evaluate()
def evaluate(msg, context):
    partition = partition_of(context)
    sums = [float(array.numpy().sum(dtype="float64")) for array in msg.content["arrays"].values()]
    metrics = {"num-examples": weight(partition), "partition-id": partition, "sum": sum(sums)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)


@app.query()
def query(msg, context):
    answer = {
        "partition-id": partition_of(context),
        "rounds-seen": int(context.state["rounds"]["seen"]),
        "name": str(context.node_config["name"]),
        "greeting": str(context.run_config["greeting"]),
        "answer": [2 * number for number in msg.content["question"]["numbers"]],
        "blob": bytes(reversed(msg.content["question"]["blob"])),
    }
    return Message(RecordDict({"answer": ConfigRecord(answer)}), reply_to=msg)
