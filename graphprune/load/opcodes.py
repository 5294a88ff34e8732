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
# torch allows this one by default; it calls its first argument, so it would call a class for us.
_CALLS_ITS_ARGUMENT = frozenset({"torch._tensor._rebuild_from_type_v2"})


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
            machine.step(opcode.name, opcode, argument)
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

    def step(self, name: str, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        match name:
            case "GLOBAL":
                self.stack.append(str(argument).replace(" ", "."))
            case "EMPTY_TUPLE":
                self.stack.append(_EMPTY)
            case "MARK":
                self.marks.append(len(self.stack))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[int(str(argument))] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[int(str(argument))])
            case _:
                self._act(name, opcode)

    def _act(self, name: str, opcode: pickletools.OpcodeInfo) -> None:
        match name:
            case "NEWOBJ":
                self._new()
            case "REDUCE":
                self._call()
            case "BUILD":
                self._build()
            case _:
                self._shuffle(opcode)

    def _new(self) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        if made in self.allowance.modules and arguments != _EMPTY:
            raise _Refusal(f"it creates {made} with arguments")
        self.stack.append(_PLAIN)

    def _call(self) -> None:
        self.stack.pop()
        called = self.stack.pop()
        if called in self.allowance.modules or called in _CALLS_ITS_ARGUMENT:
            raise _Refusal(f"it calls {called}")
        self.stack.append(f"={called}" if called in self.allowance.enums else _PLAIN)

    def _build(self) -> None:
        self.stack.pop()
        if self.stack[-1].startswith("="):
            raise _Refusal(f"it changes {self.stack[-1][1:]}")

    def _shuffle(self, opcode: pickletools.OpcodeInfo) -> None:
        before = opcode.stack_before
        if pickletools.markobject in before:
            del self.stack[self.marks.pop() :]
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            self.stack.pop()
        self.stack.extend(_PLAIN for _ in opcode.stack_after)
