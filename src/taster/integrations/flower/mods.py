"""Mods that make a client malicious, for red teams on a federation of their own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from torch import nn
from torch.nn.functional import cross_entropy

from taster.attacks import OnlineAttack, RoundKnowledge, UpdateAttack
from taster.core.batch import Batch
from taster.core.learner import Learner
from taster.core.losses import Loss
from taster.core.step_record import Phase
from taster.core.view import View
from taster.errors import AttackError
from taster.integrations.flower.arrays import load_model
from taster.integrations.flower.message_keys import ATTACKER_KEY, ORDER_KEY, QUERY_KEY, is_train_message
from taster.integrations.flower.reply_codec import ReplyCodec
from taster.utils.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flwr.clientapp.typing import ClientAppCallable, Mod

AttackFactory = Callable[[torch.Generator], UpdateAttack | OnlineAttack]
"""Makes an attack that draws from the given generator."""

IsAttacker = Callable[[Message, Context], bool]
"""Whether a node is the attacker's, for an app that honest nodes run too."""


def malicious(
    attack: AttackFactory,
    model: Callable[[], nn.Module],
    *,
    codec: ReplyCodec | None = None,
    loss: Loss = cross_entropy,
    phase: Callable[[int], Phase] | None = None,
    seed: int = 0,
    attacker: IsAttacker | None = None,
) -> Mod:
    """A mod for a client that attacks on its own, by the update that it sends or by the samples that it learns from.

        app = ClientApp(mods=[malicious(lambda draws: sign_flip(scale=3.0), Net)])
        app = ClientApp(mods=[malicious(lambda draws: label_flip(draws), Net)])

    For an attack on samples, the app has to pass them through `x, y = poisoned(x, y)`, which returns them unchanged
    without the mod. The attack is made for each message, since a node keeps no process between two; its random numbers
    depend on the seed, the node and the round, which is `server-round` in the message's configuration.

    Args:
        attack: makes the attack.
        model: makes a model like the server's, which the attack can look at.
        codec: how clients send what they have learned, as in the strategy.
        loss: of (output, y).
        phase: of each round, from 1; None accumulates throughout.
        seed: of random numbers.
        attacker: whether the node is the attacker's; None for every node with the mod.

    Raises:
        AttackError: for an attack that needs to know what other clients send, which is for `colluding` and
            `CollusionGrid`. When called, and so as the node's failure: when the app did not pass its samples through
            `poisoned`, or when its reply or the message cannot be read by the codec.
    """
    _require_lone_attack(attack(torch.Generator()))
    codec = codec or ReplyCodec()

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if not is_train_message(message) or not (attacker is None or attacker(message, context)):
            return call_next(message, context)
        server_round = _round_of(message)
        who = context.node_config.get("partition-id", context.node_id)
        made = attack(generator(seed, f"node {who} in round {server_round}"))
        now = Phase.ACCUMULATE if phase is None else phase(server_round)
        own = model()
        load_model(own, _arrays(message, codec))
        view = Learner(own, torch.optim.SGD(own.parameters(), 1.0), loss).view()
        poison = _SamplePoison(made, view, now) if isinstance(made, OnlineAttack) else None
        with _poisoning(poison):
            reply = call_next(message, context)
        if reply.has_error():
            return reply
        if isinstance(made, UpdateAttack):
            return _with_update(reply, codec, own, lambda update: _lone_update(made, update, view, now))
        scale = _scale_of(poison)
        return reply if scale == 1 else _with_update(reply, codec, own, lambda update: scale * update)

    return mod


def colluding(attacker: IsAttacker | None = None) -> Mod:
    """A mod for a client that sends what the red team decides, which knows the updates of all others.

        app = ClientApp(mods=[colluding()])

    Args:
        attacker: whether the node is the attacker's; None for every node with the mod.

    Raises (when called, and so as the node's failure):
        AttackError: in a run without a `CollusionGrid`, which decides.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if not is_train_message(message) or not (attacker is None or attacker(message, context)):
            return call_next(message, context)
        if ORDER_KEY in message.content:
            return Message(RecordDict({k: v for k, v in message.content.items() if k != ORDER_KEY}), reply_to=message)
        if QUERY_KEY not in message.content:
            raise AttackError(
                "a colluding client was asked for its update by a server without a red team; wanted the run to go "
                "through taster.integrations.flower.CollusionGrid(grid, strategy, attack)"
            )
        reply = call_next(message, context)
        if not reply.has_error():
            reply.content[ATTACKER_KEY] = message.content[QUERY_KEY]
        return reply

    return mod


def poisoned(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples that a client is to learn from: poisoned where the mod `malicious` attacks samples, else unchanged.

    Args:
        x: samples [n, ...].
        y: labels [n].
    """
    poison = _active.get()
    return (x, y) if poison is None else poison(x, y)


@dataclass
class _SamplePoison:
    """An attack on the samples of one message, and the factor on the update that it asks for; None before samples."""

    attack: OnlineAttack
    view: View
    phase: Phase
    scale: float | None = None

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self.attack.poison(Batch(x, y), self.view, self.phase)
        self.scale = batch.loss_weight
        return batch.x, batch.y


_active: ContextVar[_SamplePoison | None] = ContextVar("poison", default=None)


@contextmanager
def _poisoning(poison: _SamplePoison | None) -> Iterator[None]:
    token = _active.set(poison)
    try:
        yield
    finally:
        _active.reset(token)


def _scale_of(poison: _SamplePoison | None) -> float:
    if poison is None or poison.scale is None:
        raise AttackError(
            "the attack is on samples, and the app did not pass any through it; wanted x, y = "
            "taster.integrations.flower.poisoned(x, y) before it learns them"
        )
    return poison.scale


def _lone_update(attack: UpdateAttack, update: torch.Tensor, view: View, phase: Phase) -> torch.Tensor:
    """What a client sends that knows its own honest update [d] only."""
    own = RoundKnowledge(update[None], update.new_ones(1), torch.ones(1, dtype=torch.bool, device=update.device))
    rows = attack.poison(own, view, phase)
    return update if rows is None else rows[0]


def _require_lone_attack(attack: UpdateAttack | OnlineAttack) -> None:
    if isinstance(attack, UpdateAttack):
        if not attack.needs_only_own_update:
            raise AttackError(
                "this attack depends on what other clients send, which a client on its own does not know; wanted, from "
                "taster.integrations.flower, the mod colluding() on the attacker's nodes and CollusionGrid(grid, "
                "strategy, attack) at the server (or UpdateAttack(needs_only_own_update=True), if its own is enough)"
            )
    elif not isinstance(attack, OnlineAttack):
        raise AttackError(
            f"got {type(attack).__name__}, wanted a function that makes an UpdateAttack or an OnlineAttack"
        )
    elif attack.weight_momentum is not None:
        raise AttackError("got weight_momentum, which clients of a federation do not control; wanted none")


def _round_of(message: Message) -> int:
    for record in message.content.config_records.values():
        found = record.get("server-round")
        if isinstance(found, int):
            return found
    raise AttackError("the message has no server-round in its configuration, wanted it there as Flower's strategies do")


def _arrays(message: Message, codec: ReplyCodec) -> ArrayRecord:
    try:
        return codec.arrays(message)
    except ValueError as error:
        raise AttackError(f"the message or the app's reply {error}") from error


def _with_update(
    reply: Message, codec: ReplyCodec, own: nn.Module, act: Callable[[torch.Tensor], torch.Tensor]
) -> Message:
    """The reply with another update in place of its own."""
    arrays = _arrays(reply, codec)
    try:
        update = codec.update(arrays, own)
    except ValueError as error:
        raise AttackError(f"the app's reply {error}") from error
    (key,) = (name for name, record in reply.content.array_records.items() if record is arrays)
    reply.content[key] = codec.with_update(arrays, act(update), own)
    return reply
