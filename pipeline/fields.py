"""Dataclass fields for settings: each has a flag's default, help text and bounds."""

import dataclasses
import functools
import re
from typing import Any

from pipeline import errors

MAX_STEPS = 10**15  # exact in a float64, too
MAX_INT32 = 2**31 - 1
_FLOAT32_MAX = float.fromhex("0x1.fffffep127")
_BOUNDS = ("above", "at_least", "at_most")
_OPTIONS: dict[str, Any] = {
    "may_change": False,  # whether it may change on resume: the training steps don't depend on it
    "may_sweep": True,  # pipeline.sweep takes several values, separated by commas
    "choices": (),  # or () for any
    "may_be_own": False,  # whether it may also be a function of the user's own, beside choices
    **dict.fromkeys(_BOUNDS),
}


def field(default: Any, help_text: str, **options: Any) -> Any:
    """A dataclass field with the help text of its flag and some of _OPTIONS."""
    metadata = {"help": help_text, **_OPTIONS, **options}
    return dataclasses.field(default=default, metadata=metadata)


step_count = functools.partial(field, at_least=0, at_most=MAX_STEPS)
not_swept = functools.partial(field, may_sweep=False)
# A field that the training steps do not depend on.
output_only = functools.partial(field, may_change=True, may_sweep=False)


def names(group: type) -> tuple[str, ...]:
    """The names of the fields of a dataclass."""
    return tuple(each.name for each in dataclasses.fields(group))


def split(text: str) -> tuple[str, ...]:
    """The different names in a flag's text, which are separated by commas."""
    return tuple(filter(None, dict.fromkeys(text.split(","))))


def bounds(each: "dataclasses.Field[Any]") -> str:
    """The bounds of a field in words, such as 'at least 0', or ''."""
    limits = {name.replace("_", " "): each.metadata[name] for name in _BOUNDS}
    return " and ".join(f"{word} {limit:,}" for word, limit in limits.items() if limit is not None)


def check(each: "dataclasses.Field[Any]", value: Any) -> None:
    """Raises InputError if a value is outside the bounds of its field."""
    if value is None:
        return
    choices = each.metadata["choices"]
    above, at_least, at_most = (each.metadata[name] for name in _BOUNDS)
    is_own = each.metadata["may_be_own"] and ":" in value
    own = f", or of your own, such as mine:{each.name}" if each.metadata["may_be_own"] else ""
    errors.require(
        not choices or value in choices or is_own,
        f"--{each.name} must be one of {', '.join(choices)}{own}; received {value!r}",
    )
    errors.require(
        not re.search("[\ud800-\udfff]", str(value)),  # which stand for other bytes
        f"--{each.name} must be UTF-8; received {value!r}",
    )
    errors.require(
        not isinstance(value, float) or abs(value) <= _FLOAT32_MAX,
        f"--{each.name} must be a finite float32; received {value}",
    )
    errors.require(
        (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (at_most is None or value <= at_most),
        f"--{each.name} must be {bounds(each)}; received {value}",
    )


def check_path(name: str, path: str) -> None:
    """Raises InputError if a path is on another machine."""
    errors.require(
        not re.match(r"\w+://", path), f"--{name} must be a path on this machine; received {path!r}"
    )
