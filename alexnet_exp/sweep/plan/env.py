"""Reads and checks the environment variables of a job, `hydra.job.env_set`, which are in its folder.

The command that plans a sweep resolves them; the process that runs a job reads them from its folder. That folder may
come from somebody else, so a variable that determines which code runs is rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from alexnet_exp.errors import NO_VALUE, Problem, Refused, UserError
from alexnet_exp.runs.reader import YAML_LOADER

ENV_SET_KEY = "hydra.job.env_set"
# The allowed classes; the interpreter, the dynamic loader, the shell, git, the compiler; the folders of compiled code
# and of settings; libraries and plugins to load; certificates and proxies.
FORBIDDEN_VARIABLES = (
    *("ALEXNET_EXP_*", "PYTHON*", "LD_*", "DYLD_*", "GLIBC_*", "GCONV_PATH", "LOCPATH", "MALLOC_*", "PATH", "SHELL*"),
    *("BASH*", "ENV", "IFS", "PS4", "GIT_*", "*PAGER", "EDITOR", "VISUAL", "CC", "CXX", "CPP", "*FLAGS", "CONDA*"),
    *("HOME", "TMPDIR", "TEMP", "TMP", "XDG_*", "*_HOME", "*_DIR", "*CONFIG_FILE", "*CONF_FILE", "*DIR_PATH"),
    *("*PLUGIN*", "*INJECTION*", "*_LIBRARIES", "*_LIBRARY", "*PRELOAD*", "*BACKEND*", "TORCHINDUCTOR_*", "TRITON_*"),
    *("MPL*", "MATPLOTLIB*", "OPENSSL_*", "SSL_*", "SSLKEYLOGFILE", "*CA_BUNDLE", "*_PROXY", "*_proxy", "JAVA*"),
)


def check(names: Iterable[str]) -> None:
    """Raises `Refused` with every variable that a folder must not set, each once."""
    problems = [
        Problem(f"{ENV_SET_KEY}.{name}", NO_VALUE, "it determines which code runs; set it in the shell instead")
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in FORBIDDEN_VARIABLES)
    ]
    if problems:
        raise Refused(problems)


def read_variables(folder: Path) -> dict[str, str]:
    """Returns the variables of a job from its folder; raises UserError if they are invalid."""
    file = folder / ".hydra" / "hydra.yaml"
    try:
        found: Any = yaml.load(file.read_bytes(), Loader=YAML_LOADER)
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None
    for key in ENV_SET_KEY.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(_is_variable(name, value) for name, value in found.items()):
        raise UserError(f"{file}: {ENV_SET_KEY} must be a mapping from variables to values")
    try:
        check(found)
    except Refused as error:
        raise UserError(f"{file}: {error.problems[0]}") from None
    return {name: str(value) for name, value in found.items()}


def _is_variable(name: Any, value: Any) -> bool:
    is_name = isinstance(name, str) and name and not set(name) & {"=", "\0"}
    return bool(is_name) and isinstance(value, str | int | float) and "\0" not in str(value)
