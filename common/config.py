"""Settings of a daemon, merged from four places; a later one wins: defaults, a TOML file, the environment, flags.

The settings are a frozen dataclass whose fields are str, int, float, bool, Path, tuple[str, ...] or any of them | None.
Field `down_after_s` of program `catalogd` is `down_after_s` (or `down-after-s`) in the file and
REEDBED_CATALOGD_DOWN_AFTER_S in the environment. Relations between fields are the dataclass's own `__post_init__`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from reedbed.common.errors import InvalidArgument

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    S = TypeVar("S", bound=DataclassInstance)
else:
    S = TypeVar("S")


def load(
    kind: type[S],
    program: str,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> S:
    """The settings of `program`. A flag that is None was not given; `environ` is what the entry point was started with.

    `file` None: the one that REEDBED_<PROGRAM>_CONFIG names, if it does. InvalidArgument, which says where, for an
    unknown name, a value of another type, a missing one without default, and a file that cannot be read.
    """
    prefix = f"REEDBED_{program.upper()}_"
    environ = environ or {}
    if file is None and environ.get(prefix + "CONFIG"):
        file = Path(environ[prefix + "CONFIG"])
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    values: dict[str, object] = {}
    if file is not None:
        for name, value in _read(file).items():
            name = name.replace("-", "_")
            values[name] = _value(known, hints, name, value, f"in {file}")
    for variable, text in environ.items():
        if variable.startswith(prefix) and variable != prefix + "CONFIG":
            name = variable.removeprefix(prefix).lower()
            values[name] = _value(known, hints, name, text, f"environment variable {variable}")
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _value(known, hints, name, value, f"flag --{name.replace('_', '-')}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise InvalidArgument(
                f"{program} needs the setting {name}",
                hint=f"Give --{name.replace('_', '-')}, {prefix}{name.upper()} or {name} in its TOML file",
            )
    return kind(**values)


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise InvalidArgument(f"cannot read the configuration: {error.strerror}", where=str(file)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the configuration is not TOML: {error}", where=str(file)) from None


def _value(known: Mapping[str, Field[Any]], hints: Mapping[str, Any], name: str, value: object, where: str) -> object:
    """`value` as the type of the field `name`."""
    if name not in known:
        raise InvalidArgument(
            f"unknown setting {name[:64]!r}", where=where, hint=f"Settings are {', '.join(sorted(known))}"
        )
    hint = hints[name]
    # Only a text may be read as another type; a TOML "7" for a number is a mistake that should not pass unseen
    text = isinstance(value, str) and not where.startswith("in ")
    if isinstance(value, str) and text and _is_list(hint):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, str) and hint in (bool, bool | None):
        value = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.lower(), value)
    if isinstance(value, Path):
        value = str(value)
    try:
        result: object = msgspec.convert(value, type=hint, strict=not text, dec_hook=_path)
    except (msgspec.ValidationError, NotImplementedError):
        result = math.nan
    if isinstance(result, float) and not math.isfinite(result):
        raise InvalidArgument(
            f"setting {name} cannot be {str(value)[:64]!r}", where=where, hint=f"It is {_shown(hint)}"
        )
    return result


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise NotImplementedError


def _is_list(hint: object) -> bool:
    return get_origin(hint) is tuple or any(get_origin(arm) is tuple for arm in get_args(hint))


def _shown(hint: object) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("pathlib.", "")
