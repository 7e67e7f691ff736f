"""ServerApp: FedAvg, then a query and an action that fails. Ends with an error unless everything is exactly as it must be."""

import json

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from interop.arithmetic import initial, mean_step, weight

app = ServerApp()


def check(what, actual, expected):
    if actual != expected:
        raise AssertionError(f"{what} is {actual!r}, not {expected!r}")


class CheckedFedAvg(FedAvg):
    """FedAvg that looks at every reply, and evaluates after the last round only."""

    def __init__(self, config):
        nodes = int(config["num-nodes"])
        super().__init__(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes)
        self.config, self.nodes, self.evaluated = config, nodes, 0

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        check("number of train replies", len(replies), self.nodes)
        for reply in replies:
            metrics = reply.content["metrics"]
            for key, expected in (("scale", self.config["scale"]), ("offset", self.config["offset"]),
                                  ("round", server_round), ("rounds-seen", server_round),
                                  ("num-examples", weight(metrics["partition-id"]))):
                check(f"{key} of node {metrics['partition-id']}", metrics[key], expected)
        partitions = sorted(reply.content["metrics"]["partition-id"] for reply in replies)
        check("partitions", partitions, list(range(self.nodes)))
        return super().aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round, arrays, config, grid):
        if server_round < int(self.config["num-rounds"]):
            return []
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round, replies):
        replies = list(replies)
        self.evaluated += sum(1 for reply in replies if reply.has_content())
        return super().aggregate_evaluate(server_round, replies)


@app.main()
def main(grid, context):
    config = context.run_config
    nodes, rounds = int(config["num-nodes"]), int(config["num-rounds"])
    strategy = CheckedFedAvg(config)
    result = strategy.start(grid=grid, num_rounds=rounds,
                            initial_arrays=ArrayRecord({key: Array(value) for key, value in initial().items()}))

    moved = rounds * mean_step(nodes, float(config["scale"]), float(config["offset"]))
    total = 0.0
    for key, start in initial().items():
        expected, actual = start + start.dtype.type(moved), result.arrays[key].numpy()
        check(f"dtype of '{key}'", actual.dtype, expected.dtype)
        check(f"'{key}' equals the mean", np.array_equal(actual, expected), True)
        total += float(expected.sum(dtype="float64"))
    check("evaluate replies", strategy.evaluated, nodes)
    check("evaluated sum", result.evaluate_metrics_clientapp[rounds]["sum"], total)

    ids = sorted(grid.get_node_ids())
    question = RecordDict({"question": ConfigRecord({"numbers": [1, -2, 3], "blob": bytes([0, 1, 255])})})
    messages = [Message(question, dst_node_id=node, message_type="query") for node in ids]
    messages.append(Message(RecordDict(), dst_node_id=ids[0], message_type="train.fail"))
    names, errors = {}, []
    for reply in grid.send_and_receive(messages):
        if reply.has_error():
            errors.append((reply.metadata.src_node_id, reply.error.code))
            continue
        answer = reply.content["answer"]
        check("rounds seen by the query", answer["rounds-seen"], rounds)
        check("greeting", answer["greeting"], config["greeting"])
        check("answer", list(answer["answer"]), [2, -4, 6])
        check("blob", answer["blob"], bytes([255, 1, 0]))
        names[answer["partition-id"]] = answer["name"]
    check("partitions that answered", sorted(names), list(range(nodes)))
    check("errors", errors, [(ids[0], 2)])
    with open(config["out"], "w", encoding="utf-8") as out:
        json.dump({"w": result.arrays["w"].numpy().tolist(), "names": [names[p] for p in range(nodes)]}, out)
