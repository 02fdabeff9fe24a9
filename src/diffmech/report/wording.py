"""Numbers, intervals, p-values, durations and lists as a page writes them."""

import math


def number(value: float | None, digits: int = 3) -> str:
    """Return `value` with `digits` significant digits, without exponent where that stays readable."""
    if value is None or not math.isfinite(value):
        return "not available"
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 5:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    text = f"{value:,.{max(0, digits - 1 - size)}f}"
    return text.replace("-", "−")


def interval(value: float, low: float, high: float, unit: str = "", digits: int = 3) -> str:
    """Return an estimate with its interval, e.g. `1.08 (1.07 to 1.09)`, with the unit behind the estimate.

    A narrow interval gets the digits that tell its ends apart: `1.0002 (1.0001 to 1.0003)`, not `1.00 (1.00 to 1.00)`.
    """
    between = "" if unit in ("", "%") else " "
    spaced = f" {unit}" if unit == "%" else f"{between}{unit}"
    digits = digits_apart(low, high, digits)
    return f"{number(value, digits)}{spaced} ({limits(low, high, digits)})"


def limits(low: float, high: float, digits: int = 3) -> str:
    """Return the ends of a range, `0.1 to 0.3`, with the digits that tell them apart."""
    digits = digits_apart(low, high, digits)
    return f"{number(low, digits)} to {number(high, digits)}"


def digits_apart(low: float, high: float, digits: int) -> int:
    """Return how many significant digits tell `low` and `high` apart: `digits` or more, up to 8."""
    if not low < high:
        return digits
    return next((more for more in range(digits, 9) if number(low, more) != number(high, more)), digits)


def p_value(p: float) -> str:
    """Return a p-value, `p = 0.012` or `p < 0.001`, with spaces that do not break."""
    if not math.isfinite(p):
        return "no p-value"
    text = "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"
    return text.replace(" ", "\u00a0")


def count(amount: int, singular: str, plural: str | None = None) -> str:
    """Return an amount with its noun: `1 head`, `3 heads`, `no heads`."""
    noun = singular if amount == 1 else plural or f"{singular}s"
    return f"{'no' if amount == 0 else f'{amount:,}'} {noun}"


def listed(names: list[str], last: str = "and") -> str:
    """Return names as a list in a sentence: `a, b and c`, or with `last` = "or": `a, b or c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"
