"""The environment variables of `hydra.job.env_set`, which a job's folder brings along.

The command that plans a sweep resolves them; whoever runs a job takes them as they stand in its folder. That may be
somebody else's folder, so what decides which code runs cannot be set there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from alexnet_exp.errors import NO_VALUE, Problem, Refused, UserError
from alexnet_exp.runs.reader import YAML_LOADER

KEY = "hydra.job.env_set"
# What is allowed; the interpreter, the loader, the shell, git, the compiler; where caches of compiled code and settings
# are looked for; libraries that others load because a variable says so; whom a connection trusts.
STEERING = (
    *("ALEXNET_EXP_*", "PYTHON*", "LD_*", "DYLD_*", "GLIBC_*", "GCONV_PATH", "LOCPATH", "MALLOC_*", "PATH", "SHELL*"),
    *("BASH*", "ENV", "IFS", "PS4", "GIT_*", "*PAGER", "EDITOR", "VISUAL", "CC", "CXX", "CPP", "*FLAGS", "CONDA*"),
    *("HOME", "TMPDIR", "TEMP", "TMP", "XDG_*", "*_HOME", "*_DIR", "*CONFIG_FILE", "*CONF_FILE", "*DIR_PATH"),
    *("*PLUGIN*", "*INJECTION*", "*_LIBRARIES", "*_LIBRARY", "*PRELOAD*", "*BACKEND*", "TORCHINDUCTOR_*", "TRITON_*"),
    *("MPL*", "MATPLOTLIB*", "OPENSSL_*", "SSL_*", "SSLKEYLOGFILE", "*CA_BUNDLE", "*_PROXY", "*_proxy", "JAVA*"),
)


def check(names: Iterable[str]) -> None:
    """Raises `Refused` for variables that a folder cannot set, each once."""
    problems = [
        Problem(f"{KEY}.{name}", NO_VALUE, "decides which code runs, so a folder cannot set it; set it in the shell")
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in STEERING)
    ]
    if problems:
        raise Refused(problems)


def of_job(folder: Path) -> dict[str, str]:
    """The variables of a job, as its folder has them. Raises UserError where they cannot be used."""
    file = folder / ".hydra" / "hydra.yaml"
    try:
        found: Any = yaml.load(file.read_bytes(), Loader=YAML_LOADER)
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None
    for key in KEY.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(_is_variable(name, value) for name, value in found.items()):
        raise UserError(f"{file}: {KEY} must be names of variables with their values")
    try:
        check(found)
    except Refused as error:
        raise UserError(f"{file}: {error.problems[0]}") from None
    return {name: str(value) for name, value in found.items()}


def _is_variable(name: Any, value: Any) -> bool:
    well_named = isinstance(name, str) and name and not set(name) & {"=", "\0"}
    return bool(well_named) and isinstance(value, str | int | float) and "\0" not in str(value)
