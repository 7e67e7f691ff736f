"""A ClientApp of Flower's that trains the answering half of the adapter, with PEFT and PyTorch.

The other nodes train both halves with LibTorch. What this one has no model for, the tensors that draw, goes back as it came.
"""
import math
import random
import time

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from mixed.data import Questions
from mixed.model import accuracy, answer_logits, attach, detach, load_backbone

app = ClientApp()
torch.set_num_threads(1)


def setting(msg: Message, context: Context, key: str):
    """A setting of this message, else of the run."""
    return msg.content["config"].get(key, context.run_config.get(key, context.run_config.get("train." + key)))


def share(context: Context, questions: Questions) -> list:
    """This node's questions: those about every num-partitions'th picture."""
    part, parts = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    return [example for example in questions.examples if example.picture % parts == part]


def load(msg: Message, context: Context):
    """The backbone with the message's adapter on it."""
    adapter = {key: array.numpy() for key, array in msg.content["arrays"].items()}
    model = load_backbone(str(context.node_config["model"]))
    peft, keys = attach(model, adapter, float(context.run_config["lora.lora-alpha"]))
    return adapter, peft, keys


def optimizer_of(context: Context, parameters: list, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW with the moments of this node's last round: the context is all that outlives the process."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    if "adamw" in context.state and context.run_config["train.keep-optimizer"]:
        moments = context.state["adamw"]
        for i, parameter in enumerate(parameters):
            optimizer.state[parameter] = {
                "step": torch.tensor(float(context.state["rounds"]["steps"])),
                "exp_avg": torch.from_numpy(moments[f"{i}.m"].numpy().copy()),
                "exp_avg_sq": torch.from_numpy(moments[f"{i}.v"].numpy().copy())}
    return optimizer


def keep(context: Context, optimizer: torch.optim.AdamW, parameters: list, steps: int) -> None:
    """Leaves the optimizer's moments to the next round."""
    done = context.state["rounds"]["steps"] if "rounds" in context.state else 0
    context.state["rounds"] = ConfigRecord({"steps": done + steps})
    context.state["adamw"] = ArrayRecord({
        f"{i}.{name}": Array(optimizer.state[parameter][of].numpy())
        for i, parameter in enumerate(parameters) for name, of in (("m", "exp_avg"), ("v", "exp_avg_sq"))})


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train for `local-steps`, with the settings that the C++ nodes go by."""
    start = time.monotonic()
    adapter, peft, keys = load(msg, context)
    questions = Questions(str(context.node_config["data"]), str(context.node_config["model"]), "train")
    mine = share(context, questions)
    this_round, steps = int(msg.content["config"]["server-round"]), int(setting(msg, context, "local-steps"))
    peak, total = float(setting(msg, context, "learning-rate")), steps * int(setting(msg, context, "num-rounds"))
    batch_size, clip = int(setting(msg, context, "vqa-batch-size")), float(setting(msg, context, "max-grad-norm"))
    parameters = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimizer = optimizer_of(context, parameters, peak, float(setting(msg, context, "weight-decay")))
    dice = random.Random(f"{setting(msg, context, 'seed')} {context.node_config['partition-id']} {this_round}")
    losses = []
    for step in range(steps):
        progress = ((this_round - 1) * steps + step) / total
        for group in optimizer.param_groups:
            cosine = setting(msg, context, "schedule") == "cosine"
            group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * progress)) if cosine else peak
        logits, wanted = answer_logits(peft, questions, dice.sample(mine, batch_size))
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        losses.append(loss.item())
    keep(context, optimizer, parameters, steps)
    adapter.update(detach(peft, keys))
    mean = sum(losses) / len(losses)
    return Message(RecordDict({
        "arrays": ArrayRecord({key: Array(value) for key, value in adapter.items()}),
        "metrics": MetricRecord({"num-examples": len(mine), "train-loss": mean, "vqa-loss": mean,
                                 "partition-id": float(context.node_config["partition-id"]),
                                 "seconds": time.monotonic() - start}),
    }), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Every tenth held-out question."""
    _, peft, _ = load(msg, context)
    questions = Questions(str(context.node_config["data"]), str(context.node_config["model"]), "test")
    asked = questions.examples[::10]
    return Message(RecordDict({"metrics": MetricRecord({
        "num-examples": len(asked), "vqa-accuracy": accuracy(peft, questions, asked)})}), reply_to=msg)
