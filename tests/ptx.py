"""PTX on the CPU, one thread at a time: the instructions of the package's own kernels, and no others.

Arithmetic is exact and then rounded once, as IEEE 754 and the PTX manual say; ``ex2.approx`` and ``rcp.approx`` give
the nearest number of the precision that the manual promises.
"""

from __future__ import annotations

import math
import re
import struct
from fractions import Fraction

import numpy as np

FORMATS = {"f32": ("<f", "<I", 24, -126), "f64": ("<d", "<Q", 53, -1022)}
"""How bits are packed, digits of the significand, and the lowest exponent of normal numbers."""
_COMPARISONS = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip


def bits_of(value, kind):
    return struct.unpack(FORMATS[kind][1], struct.pack(FORMATS[kind][0], value))[0]


def number(bits, kind):
    return struct.unpack(FORMATS[kind][0], struct.pack(FORMATS[kind][1], bits))[0]


def signed(bits, n_bits):
    return bits - (1 << n_bits) if bits >> (n_bits - 1) else bits


def rounded(exact, kind, mode="rn"):
    """A fraction, not 0, as the float that it is rounded to: to nearest even, downwards, or towards zero."""
    _, _, digits, lowest = FORMATS[kind]
    a, b = abs(exact.numerator), exact.denominator
    exponent = a.bit_length() - b.bit_length()
    exponent -= Fraction(a, b) < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, lowest) - digits + 1)
    n = {"rn": round, "rm": math.floor, "rz": math.trunc}[mode](exact / unit)
    largest = (2 - Fraction(2) ** (1 - digits)) * Fraction(2) ** (1 - lowest)
    if abs(n * unit) > largest:
        assert mode == "rn"
        return math.inf if exact > 0 else -math.inf
    return math.copysign(float(n * unit), 1 if exact > 0 else -1)


def fused(a, b, c, kind, mode="rn"):
    """Product and sum, rounded once."""
    if not all(map(math.isfinite, (a, b, c))):
        with np.errstate(all="ignore"):
            return float(np.float64(a) * np.float64(b) + np.float64(c))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact:
        return rounded(exact, kind, mode)
    signs = {math.copysign(1, a) * math.copysign(1, b), math.copysign(1, c)}
    negative = signs == {-1.0} or (mode == "rm" and len(signs) == 2)
    return -0.0 if negative else 0.0


def _larger(a, b):
    """IEEE's maximum of numbers: what is not NaN; of zeros the positive one."""
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return max((a, math.copysign(1, a)), (b, math.copysign(1, b)))[0]


def _power_of_two(a, kind):
    if not math.isfinite(a):
        return 0.0 if a == -math.inf else a
    value = 0.0 if a < -126 else math.inf if a >= 128 else 2.0**a
    return rounded(Fraction(value), kind) if 0 < value < math.inf else value


def _reciprocal(a, kind):
    if kind == "f64":
        # the upper half of the bits alone
        a = number(bits_of(a, kind) >> 32 << 32, kind)
    if a == 0:
        return math.copysign(math.inf, a)
    if not math.isfinite(a):
        return math.copysign(0.0, a) if math.isinf(a) else a
    value = rounded(1 / Fraction(a), kind)
    return value if kind == "f32" else number(bits_of(value, kind) >> 32 << 32, kind)


def _quotient(a, b, kind):
    if math.isfinite(a) and math.isfinite(b) and a and b:
        return rounded(Fraction(a) / Fraction(b), kind)
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


def _minus(a):
    return math.copysign(a, -math.copysign(1, a)) if not math.isnan(a) else a


FLOATS = {
    "add": lambda a, b, kind, mode: fused(a, 1.0, b, kind, mode),
    "sub": lambda a, b, kind, mode: fused(a, 1.0, _minus(b), kind, mode),
    # a zero of the product's own sign changes nothing
    "mul": lambda a, b, kind, mode: fused(a, b, 0.0 * math.copysign(1, a) * math.copysign(1, b), kind, mode),
    "fma": fused,
    "div": lambda a, b, kind, mode: _quotient(a, b, kind),
    "abs": lambda a, kind, mode: abs(a),
    "neg": lambda a, kind, mode: _minus(a),
    "max": lambda a, b, kind, mode: _larger(a, b),
    "ex2": lambda a, kind, mode: _power_of_two(a, kind),
    "rcp": lambda a, kind, mode: _reciprocal(a, kind),
}  # fmt: skip
INTEGERS = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "and": lambda a, b: a & b, "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b, "shl": lambda a, b: a << b, "shr": lambda a, b: a >> b,
}  # fmt: skip


class Thread:
    """A thread of a kernel whose parameters point at memory.

    Parameters
    ----------
    text : str
        PTX of one kernel.
    arguments : sequence of int
        Its parameters: addresses.
    memory : dict of int to int
        Bits at each address.
    """

    def __init__(self, text, arguments, memory):
        self.arguments, self.memory, self.registers = arguments, memory, {"%tid.x": 0}
        body = re.sub(r"//[^\n]*", "", text[text.index("\n{") + 2 :])
        body = re.sub(r"\.reg [^;]*;", "", body)
        self.code, self.labels = [], {}
        # braces around statements only limit where a register is known
        for statement in re.findall(r"\$\w+:|[^;:]+;", body):
            line = statement.strip().removeprefix("{").removesuffix(";").strip().lstrip("}{ \n\t")
            if statement.endswith(":"):
                self.labels[statement[:-1]] = len(self.code)
            elif line:
                self.code.append(line)

    def run(self):
        place = 0
        while True:
            guard, operation, rest = re.fullmatch(r"(?:@(!?%p\d+)\s+)?([\w.]+)\s*(.*)", self.code[place], re.S).groups()
            place += 1
            if guard and bool(self.registers[guard.lstrip("!")]) == guard.startswith("!"):
                continue
            if operation == "ret":
                return
            if operation in ("bra", "bra.uni"):
                place = self.labels[rest.strip()]
                continue
            operands = re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s]+", rest)
            self._do(operation.split("."), operands)

    def _bits(self, operand):
        if operand.startswith("%"):
            return self.registers[operand]
        if operand.startswith("0f") or operand.startswith("0d"):
            return int(operand[2:], 16)
        return int(operand, 0)

    def _do(self, operation, operands):
        name, *modes, kind = operation
        target, *sources = operands
        if name in ("ld", "st"):
            self._access(name, modes, target, sources)
        elif name == "mov" and "{" in target + sources[0]:
            self._halves(target, sources[0])
        elif name in ("mov", "cvta"):
            self.registers[target] = self._bits(sources[0]) & ((1 << int(kind[1:])) - 1)
        elif name == "setp":
            self._compare(modes[0], kind, target, sources)
        elif name == "selp":
            self.registers[target] = self._bits(sources[0] if self.registers[sources[2]] else sources[1])
        elif name == "cvt":
            self._convert(modes, kind, target, sources[0])
        elif kind in FORMATS:
            (mode,) = [m for m in modes if m in ("rn", "rm", "rz")] or ["rn"]
            assert set(modes) <= {mode, "approx", "ftz"}, operation
            values = [number(self._bits(source), kind) for source in sources]
            result = FLOATS[name](*values, kind, mode)
            if "ftz" in modes and abs(result) < 2.0 ** FORMATS[kind][3]:
                result = math.copysign(0.0, result)
            self.registers[target] = bits_of(result, kind)
        elif name == "mul":
            assert (modes, kind) == (["wide"], "s32")
            a, b = (signed(self._bits(source) & 0xFFFFFFFF, 32) for source in sources)
            self.registers[target] = (a * b) & ((1 << 64) - 1)
        else:
            self._integer(name, modes, kind, target, sources)

    def _integer(self, name, modes, kind, target, sources):
        assert not modes
        n_bits = 1 if kind == "pred" else int(kind[1:])
        mask = (1 << n_bits) - 1
        values = [self._bits(source) & mask for source in sources]
        if name == "shr" and kind.startswith("s"):
            values[0] = signed(values[0], n_bits)
        self.registers[target] = INTEGERS[name](*values) & mask

    def _access(self, name, modes, target, sources):
        if modes == ["param"]:
            self.registers[target] = self.arguments[int(re.search(r"_(\d+)\]", sources[0])[1])]
        elif name == "ld":
            self.registers[target] = self.memory[self._bits(sources[0].strip("[]"))]
        else:
            self.memory[self._bits(target.strip("[]"))] = self._bits(sources[0])

    def _halves(self, target, source):
        """A number of 64 bits from two of 32, the lower one first, and the way back."""
        if target.startswith("{"):
            bits = self._bits(source)
            for register, half in zip(target.strip("{}").split(","), (bits & 0xFFFFFFFF, bits >> 32), strict=True):
                self.registers[register.strip()] = half
        else:
            low, high = (self._bits(register.strip()) & 0xFFFFFFFF for register in source.strip("{}").split(","))
            self.registers[target] = high << 32 | low

    def _compare(self, relation, kind, target, sources):
        bits = [self._bits(source) for source in sources]
        if kind in FORMATS:
            a, b = (number(value, kind) for value in bits)
            unordered = math.isnan(a) or math.isnan(b)
            holds = _COMPARISONS[relation.removesuffix("u") if len(relation) == 3 else relation](a, b)
            self.registers[target] = len(relation) == 3 if unordered else holds
            return
        n_bits = int(kind[1:])
        a, b = (value & ((1 << n_bits) - 1) for value in bits)
        if kind.startswith("s"):
            a, b = signed(a, n_bits), signed(b, n_bits)
        self.registers[target] = _COMPARISONS[relation](a, b)

    def _convert(self, modes, source_kind, target, source):
        *modes, kind = modes
        bits = self._bits(source)
        if kind in FORMATS and source_kind in FORMATS:
            value = number(bits, source_kind)
            if "sat" in modes:
                value = 0.0 if math.isnan(value) else min(max(value, 0.0), 1.0)
            elif "rni" in modes:
                value = math.copysign(round(value), value) if math.isfinite(value) else value
            elif modes == ["rn"] and math.isfinite(value) and value:
                value = rounded(Fraction(value), kind)
            else:
                assert not modes or modes == ["rn"], modes
            self.registers[target] = bits_of(value, kind)
        elif kind in FORMATS:
            assert (modes, source_kind) == (["rn"], "s32")
            value = signed(bits & 0xFFFFFFFF, 32)
            self.registers[target] = bits_of(rounded(Fraction(value), kind) if value else 0.0, kind)
        else:
            assert (kind, source_kind) == ("s64", "s32"), (kind, source_kind)
            self.registers[target] = signed(bits & 0xFFFFFFFF, 32) & ((1 << 64) - 1)


def element(text, values, dtype):
    """What a kernel of one element makes of its inputs, each a number of the dtype."""
    kind = {"float32": "f32", "float64": "f64"}[dtype]
    addresses = [4096 * (k + 1) for k in range(len(values) + 1)]
    memory = {address: bits_of(value, kind) for address, value in zip(addresses, values, strict=False)}
    Thread(text, addresses, memory).run()
    return number(memory[addresses[-1]], kind)
