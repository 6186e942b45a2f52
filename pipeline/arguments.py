"""The settings of a call from Python: each flag is a keyword.

A keyword takes what its flag takes, as a value instead of a text. Functions and data may be given
themselves; they get a name under which user_code finds them while the call lasts.
"""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import numbers
import operator
import os
import pathlib
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pipeline import config as config_lib
from pipeline import errors, tf_runtime, user_code

_FIELDS = {field.name: field for field in dataclasses.fields(config_lib.Config)}
_OBJECTS = {  # the keywords that take objects
    "model": "a name, or a function that makes the model, since each run begins with a new one",
    "loss": "a name, a function, or a Loss of Keras",
    "optimizer": "a name, a function that makes an optimizer of Keras, or such an optimizer",
    "schedule": "a name, a function of the step, or a schedule of Keras",
    "callbacks": "a list of callbacks of Keras, or a function that returns one",
    "metrics": "names, metrics of Keras, or a function that returns a list of them",
    "data": "files, columns by their names (a mapping or a data frame), arrays (x, y), or a "
    "function that returns such",
}
_OF_DATA = "columns", "element_spec"  # attributes of data frames and tf.data.Dataset
_Function = TypeVar("_Function", bound=Callable[..., Any])
# TensorFlow's seeds, Keras' names and what is printed belong to the process.
_one_at_a_time = threading.Lock()


class Given(user_code.UserFunction):
    """An object that a call gives: a function, or data."""

    value: Any

    @classmethod
    def of(cls, flag: str, value: Any) -> "Given":
        """Describes an object by its name and its source, if it has one."""
        name = getattr(value, "__name__", type(value).__name__)
        path = pathlib.Path(getattr(getattr(value, "__code__", None), "co_filename", ""))
        made = cls(f"{flag}={name}", name, path, "", _source(value).encode(), is_own=True)
        object.__setattr__(made, "value", value)
        return made

    def __str__(self) -> str:
        return self.name

    @property
    def portable(self) -> str:
        """The text that stands for the object in a config."""
        return f"{user_code.IN_PYTHON}:{self.name}"

    def _load(self) -> Any:
        """Returns the object, or a function that returns the data."""
        value = self.value
        return (lambda: value) if self.flag.startswith("data=") and not callable(value) else value


def _source(value: Any) -> str:
    """The source of a function or of an object's class; '' if there is none.

    Objects of Keras are described by their settings.
    """
    if isinstance(value, list):
        return "\n".join(map(_source, value))
    if hasattr(value, "get_config") and not inspect.isclass(value):
        return f"{type(value).__name__}({value.get_config()})"
    if isinstance(value, functools.partial):
        value = value.func
    if not callable(value):
        return ""
    is_instance = not inspect.isroutine(value) and not inspect.isclass(value)
    try:
        return textwrap.dedent(inspect.getsource(type(value) if is_instance else value))
    except (OSError, TypeError):
        return ""


@contextlib.contextmanager
def of_call(
    caller: str, given: Mapping[str, Any], *, takes_several: bool = False
) -> Iterator[dict[str, Any]]:
    """Yields the values of Config's fields for the keywords of a call, one call at a time.

    The process is left as it was. With takes_several, each value is a list.

    Raises:
      errors.InputError: a keyword is unknown, or its value is of the wrong type.
      errors.RunError: another thread is in such a call.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise errors.RunError(f"{caller}: another call is training in this process; wait for it")
    try:
        user_code.read.cache_clear()  # the user may have edited a file since the last call
        with tf_runtime.as_guest():
            yield {name: _value(caller, name, v, takes_several) for name, v in given.items()}
    except errors.UserCodeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise
    except errors.PipelineError as error:
        raise error.with_traceback(None) from None  # the message says all
    finally:
        user_code.given.clear()
        _one_at_a_time.release()


def keywords(function: _Function) -> _Function:
    """Shows the flags as keywords in the signature of a function that takes **settings."""
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, kind, default=field.default, annotation=field.type)
        for name, field in _FIELDS.items()
    ]
    returned = inspect.signature(function).return_annotation
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        parameters, return_annotation=returned
    )
    return function


def _value(caller: str, name: str, value: Any, takes_several: bool) -> Any:
    """Returns the value of a field, or a list if several may be given."""
    if name not in _FIELDS:
        near = difflib.get_close_matches(name, _FIELDS, 1)
        hint = (
            f"did you mean {near[0]}?" if near else "its keywords are the flags of pipeline.train"
        )
        raise errors.InputError(f"{caller} takes no {name!r}; {hint}")
    if not takes_several:
        return _one(_FIELDS[name], value)
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    several = list(value) if is_list and _FIELDS[name].metadata["may_sweep"] else [value]
    return list(dict.fromkeys(_one(_FIELDS[name], each) for each in several))


def _one(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Converts one value to the type of its field; raises InputError."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    is_auto = isinstance(value, str) and value == "auto" and field.type == float | None
    if is_auto or (value is None and field.default is None):
        return None
    if field.type in (bool, bool | None):
        is_right, wanted = isinstance(value, bool), "True or False"
    elif field.type in (int, int | None):
        is_right, wanted = is_number and hasattr(value, "__index__"), "a whole number"
        value = operator.index(value) if is_right else value
    elif field.type in (float, float | None):
        is_right, wanted = is_number, "a number"
        value = float(value) if is_right else value
    else:
        return _text(field, value)
    errors.require(is_right, f"--{field.name} must be {wanted}; received {_short(value)}")
    return value


def _text(field: "dataclasses.Field[Any]", value: Any) -> str:
    """Returns the text of a flag that takes names; objects are given names."""
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        return str(text).lower() if field.metadata["choices"] else str(text)
    if isinstance(value, bool) and field.metadata["choices"]:
        return str(value).lower()
    is_list = isinstance(value, list) or (isinstance(value, tuple) and field.name != "data")
    is_list = is_list and all(isinstance(each, str | os.PathLike) for each in value)
    if is_list and not field.metadata["may_sweep"]:
        return ",".join(_text(field, each) for each in value)
    _check_object(field.name, value)
    given = Given.of(field.name, value)
    key = f"--{field.name}={given.portable}"
    errors.require(
        user_code.given.setdefault(key, given).value is value,  # type: ignore[attr-defined]
        f"--{field.name}: two objects have the name {given.name}; give them different ones",
    )
    return given.portable


def _check_object(name: str, value: Any) -> None:
    """Raises InputError if a keyword does not take such an object."""
    is_model = name == "model" and hasattr(value, "trainable_variables")
    is_data = isinstance(value, Mapping | tuple) or any(hasattr(value, each) for each in _OF_DATA)
    of_keras = name not in ("model", "data") and hasattr(value, "get_config")
    is_list = name in ("metrics", "callbacks") and isinstance(value, list)
    errors.require(
        name in _OBJECTS
        and not is_model
        and (callable(value) or of_keras or is_list or (is_data and name == "data")),
        f"--{name} must be {_OBJECTS.get(name, 'a text')}; received {_short(value)}",
    )


def _short(value: Any) -> str:
    """The value, or the type of a large one."""
    text = repr(value)
    return text if len(text) <= 50 else f"a value of type {type(value).__name__}"
