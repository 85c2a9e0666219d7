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
from taster.core.learner import Learner
from taster.core.losses import Loss
from taster.core.types import Batch, Phase
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
"""Makes an attack that draws from this generator."""

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
    """A client that attacks by itself: with what it sends, or with the samples that it learns from.

        app = ClientApp(mods=[malicious(lambda draws: sign_flip(scale=3.0), Net)])
        app = ClientApp(mods=[malicious(lambda draws: label_flip(draws), Net)])

    For an attack on samples the app has to hand them over: `x, y = poisoned(x, y)`, which leaves them as they are where
    there is no such mod. The attack is made anew for each message, as nodes keep no process between two; what it draws
    depends on the seed, the node and the round. `server-round` in the message's configuration tells the round.

    Args:
        attack: makes it.
        model: makes a model as the server's, which the attack can look at.
        form: in which clients send what they have learned, as the strategy has it.
        loss: of (output, y).
        phase: of each round, from 1; None accumulates throughout.
        seed: of what is drawn.
        attacker: whether the node is the attacker's; None takes each with the mod for one.

    Raises:
        AttackError: for an attack that needs to know what other clients send: those go through `colluding` and
            `CollusionGrid`. When called, and so as the node's failure: where the app never asked for its samples, or its
            reply or the message are not what the form says.
    """
    _require_lone_attack(attack(torch.Generator()))
    codec = codec or ReplyCodec()

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if not is_train_message(message) or not (attacker is None or attacker(message, context)):
            return call_next(message, context)
        turn = _round_of(message)
        who = context.node_config.get("partition-id", context.node_id)
        campaign = attack(generator(seed, f"node {who} in round {turn}"))
        own, now = model(), Phase.ACCUMULATE if phase is None else phase(turn)
        load_model(own, _arrays(message, codec))
        view = Learner(own, torch.optim.SGD(own.parameters(), 1.0), loss).view()
        if isinstance(campaign, OnlineAttack):
            with _poisoning(_Poison(campaign, view, now)) as poison:
                reply = call_next(message, context)
            if reply.has_error():
                return reply
            if poison.scale is None:
                raise AttackError(
                    "the attack is on samples, and the app never handed any over; wanted x, y = "
                    "taster.integrations.flower.poisoned(x, y) before it learns them"
                )
            scale = poison.scale
            return reply if scale == 1 else _with_update(reply, codec, own, lambda update: scale * update)
        reply = call_next(message, context)
        if reply.has_error():
            return reply

        def row(update: torch.Tensor) -> torch.Tensor:
            knows = RoundKnowledge(
                update[None], update.new_ones(1), torch.ones(1, dtype=torch.bool, device=update.device)
            )
            rows = campaign.poison(knows, view, now)
            return update if rows is None else rows[0]

        return _with_update(reply, codec, own, row)

    return mod


def colluding(attacker: IsAttacker | None = None) -> Mod:
    """A client that sends what the red team decides, which knows what all others send; see `CollusionGrid`.

        app = ClientApp(mods=[colluding()])

    Args:
        attacker: whether the node is the attacker's; None takes each with the mod for one.

    Raises (when called, and so as the node's failure):
        AttackError: in a run without `CollusionGrid`, where there is nobody to decide.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if not is_train_message(message) or not (attacker is None or attacker(message, context)):
            return call_next(message, context)
        if ORDER_KEY in message.content:
            return Message(RecordDict({k: v for k, v in message.content.items() if k != ORDER_KEY}), reply_to=message)
        if QUERY_KEY not in message.content:
            raise AttackError(
                "a colluding client was asked for its update by a server without a red team; wanted the run to go "
                "through taster.integrations.flower.CollusionGrid(grid, strategy, campaign)"
            )
        reply = call_next(message, context)
        if not reply.has_error():
            reply.content[ATTACKER_KEY] = message.content[QUERY_KEY]
        return reply

    return mod


def poisoned(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A client's samples as it is to learn them: poisoned where the mod `malicious` has an attack on samples.

    Args:
        x: samples [n, ...].
        y: labels [n].
    """
    poison = _active.get()
    return (x, y) if poison is None else poison(x, y)


@dataclass
class _Poison:
    """The attack in force, and the factor on the update that it has come to; None until samples were handed over."""

    attack: OnlineAttack
    view: View
    phase: Phase
    scale: float | None = None

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fed = self.attack.poison(Batch(x, y), self.view, self.phase)
        self.scale = fed.loss_weight
        return fed.x, fed.y


_active: ContextVar[_Poison | None] = ContextVar("poison", default=None)


@contextmanager
def _poisoning(poison: _Poison) -> Iterator[_Poison]:
    token = _active.set(poison)
    try:
        yield poison
    finally:
        _active.reset(token)


def _require_lone_attack(attack: UpdateAttack | OnlineAttack) -> None:
    if isinstance(attack, UpdateAttack):
        if not attack.needs_only_own_update:
            raise AttackError(
                "this attack goes by what other clients send, which a client by itself does not know; wanted the mod "
                "taster.integrations.flower.colluding() on the attacker's nodes, and taster.integrations.flower.CollusionGrid(grid, strategy, "
                "campaign) at the server (or UpdateAttack(needs_only_own_update=True), if it goes by its own update)"
            )
    elif not isinstance(attack, OnlineAttack):
        raise AttackError(
            f"got {type(attack).__name__}, wanted a function that makes an UpdateAttack or an OnlineAttack"
        )
    elif attack.weight_momentum is not None:
        raise AttackError("got weight_momentum, which clients of a federation have no hand in; wanted none")


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
    """The reply with something else for its update."""
    arrays = _arrays(reply, codec)
    try:
        update = codec.update(arrays, own)
    except ValueError as error:
        raise AttackError(f"the app's reply {error}") from error
    (key,) = (name for name, record in reply.content.array_records.items() if record is arrays)
    reply.content[key] = codec.with_update(arrays, act(update), own)
    return reply
