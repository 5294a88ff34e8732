"""Follow a pickle's instructions without running them, to see what it would call.

The restricted unpickler calls any allowed object with any arguments. For a class of layers that is
more than a pickled model ever needs: pickle creates such objects empty and then fills in their
attributes. So a file that calls a layer class is not a model that somebody saved.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field

from graphprune.errors import TrustError
from graphprune.load.allowlist import Allowance

_PLAIN = ""
_EMPTY = "()"


def require_only_created(pickle: bytes, allowance: Allowance, *, path: str) -> None:
    """Check that layers are created empty and that enums are left as they are.

    Args:
        pickle: The bytes of ``data.pkl``.
        allowance: The names that may be used.
        path: The file, for the error.

    Raises:
        TrustError: The pickle calls a layer class, or changes a shared object.
    """
    machine = _Machine(allowance=allowance)
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            machine.step(opcode, argument)
    except _Refusal as reason:
        raise _error(path, str(reason)) from None
    except (IndexError, KeyError, ValueError) as reason:
        raise _error(path, "its instructions do not make a valid pickle") from reason


def _error(path: str, problem: str) -> TrustError:
    return TrustError(
        f"{path} is not a plain pickled model: {problem}",
        hint="if you trust whoever made it, add --trust",
    )


class _Refusal(Exception):
    """The pickle does what no saved model does."""


@dataclass(kw_only=True)
class _Machine:
    """Runs a pickle on tags: a global's name, ``()`` for the empty tuple, or ``""``."""

    allowance: Allowance
    stack: list[str] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, str] = field(default_factory=dict)

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        special = getattr(self, f"_on_{opcode.name.lower()}", None)
        if special is not None:
            special(argument)
            return
        self._shuffle(opcode)

    def _shuffle(self, opcode: pickletools.OpcodeInfo) -> None:
        before = opcode.stack_before
        if pickletools.markobject in before:
            del self.stack[self.marks.pop() :]
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            self.stack.pop()
        self.stack.extend(_PLAIN for _ in opcode.stack_after)

    def _on_global(self, argument: object) -> None:
        self.stack.append(str(argument).replace(" ", "."))

    def _on_empty_tuple(self, _: object) -> None:
        self.stack.append(_EMPTY)

    def _on_mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def _on_binput(self, argument: object) -> None:
        self.memo[int(str(argument))] = self.stack[-1]

    _on_long_binput = _on_binput

    def _on_binget(self, argument: object) -> None:
        self.stack.append(self.memo[int(str(argument))])

    _on_long_binget = _on_binget

    def _on_newobj(self, _: object) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        if made in self.allowance.modules and arguments != _EMPTY:
            raise _Refusal(f"it creates {made} with arguments")
        self.stack.append(_PLAIN)

    def _on_reduce(self, _: object) -> None:
        self.stack.pop()
        called = self.stack.pop()
        if called in self.allowance.modules:
            raise _Refusal(f"it calls {called}")
        self.stack.append(f"={called}" if called in self.allowance.enums else _PLAIN)

    def _on_build(self, _: object) -> None:
        self.stack.pop()
        if self.stack[-1].startswith("="):
            raise _Refusal(f"it changes {self.stack[-1][1:]}")
