"""Random mutations of bytes: flips, cuts, repeats, splices, numbers and words of the format."""

import random
import struct

NUMBERS = (0, 1, -1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
LONGEST = 64 * 2**10


class Mutator:
    """Mutates valid files. `words` are tokens of the format, such as keys and magic numbers."""

    def __init__(self, seeds: list[bytes], words: tuple[bytes, ...], dice: random.Random):
        self._seeds, self._words, self._dice = seeds, words, dice

    def make(self) -> bytes:
        data = bytearray(self._dice.choice(self._seeds))
        for _ in range(self._dice.choice((1, 1, 1, 2, 2, 4, 8, 32))):
            self._dice.choice(CHANGES)(self, data)
        return bytes(data[:LONGEST])

    def _draw_offset(self, data: bytearray) -> int:
        return self._dice.randrange(len(data) + 1)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._dice.randrange(len(data))] ^= 1 << self._dice.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            data[self._dice.randrange(len(data))] = self._dice.randrange(256)

    def _cut(self, data: bytearray) -> None:
        del data[self._draw_offset(data) :]

    def _drop(self, data: bytearray) -> None:
        start = self._draw_offset(data)
        del data[start : start + self._dice.choice((1, 2, 4, 16, 256))]

    def _repeat(self, data: bytearray) -> None:
        start = self._draw_offset(data)
        piece = data[start : start + self._dice.choice((1, 4, 16, 64))]
        data[start:start] = piece * self._dice.choice((1, 2, 8, 200))

    def _word(self, data: bytearray) -> None:
        if self._words:
            word, start = self._dice.choice(self._words), self._draw_offset(data)
            data[start : start + self._dice.choice((0, len(word)))] = word

    def _number(self, data: bytearray) -> None:
        number, start = self._dice.choice(NUMBERS), self._draw_offset(data)
        size = self._dice.choice((1, 2, 4, 8))
        packed = struct.pack("<Q", number % 2**64)[:size]
        data[start : start + size] = packed if self._dice.random() < 0.8 else packed[::-1]

    def _digits(self, data: bytearray) -> None:
        start = self._draw_offset(data)
        number = self._dice.choice((*NUMBERS, 10**400, 1e308, float("nan"), float("inf"), -1e-320, True, None))
        data[start : start + self._dice.choice((0, 1, 3))] = str(number).encode()

    def _splice(self, data: bytearray) -> None:
        other, start = self._dice.choice(self._seeds), self._draw_offset(data)
        begin = self._dice.randrange(len(other) + 1)
        data[start:] = other[begin:]

    def _swap(self, data: bytearray) -> None:
        size, a, b = self._dice.choice((1, 4, 16)), self._draw_offset(data), self._draw_offset(data)
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


CHANGES = (
    Mutator._flip,
    Mutator._flip,
    Mutator._set,
    Mutator._cut,
    Mutator._drop,
    Mutator._repeat,
    Mutator._word,
    Mutator._word,
    Mutator._number,
    Mutator._digits,
    Mutator._splice,
    Mutator._swap,
)
