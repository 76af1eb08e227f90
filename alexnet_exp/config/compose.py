"""Composing a configuration from `conf/`, the user's own YAML and overrides; saying what is wrong with all of them.

Hydra stops at the first bad override, and its advice for an unknown key (`+key=value`) is how a typo comes to be
accepted. So when composing fails, every override is looked at by itself, and `Refused` names each bad one.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from alexnet_exp.config.composer import Composer, Options, parsed_override, typed_text
from alexnet_exp.config.overrides import changed_texts, exact, swept, texts
from alexnet_exp.config.resolve import match
from alexnet_exp.config.schema import COLLECTIONS, NODES, Config, Mlflow, Wandb
from alexnet_exp.config.suggestions import of_option, of_setting
from alexnet_exp.config.user_class import ROLES, TARGET
from alexnet_exp.config.validate import validate
from alexnet_exp.errors import NO_VALUE, Problem, Refused, UserError, missing_package, nearest_name, suggest_name
from alexnet_exp.model.spec import Network
from alexnet_exp.paths import OUTPUTS, conf_dir, group_names, groups
from alexnet_exp.runs.lookup import weights_file

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

VERSION_BASE = "1.3"
ROOT = "config"
MACHINE = "local"  # the group of a machine's own settings, whose default file may be missing
NEEDED: dict[type, str] = {Mlflow: "mlflow", Wandb: "wandb"}  # packages, which an installation may not have
WHOLE = {"experiment", "debug"}  # groups whose files set keys of any other


@cache
def register() -> None:
    """Puts the dataclasses under the YAML: `defaults: [/schema/optim/sgd@_here_, _self_]` types a file."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    for group, classes in {**NODES, **COLLECTIONS}.items():
        for name, cls in classes.items():
            store.store(group=f"schema/{group}", name=name, node=cls)


def check_config_dir(config_dir: str | None) -> None:
    """Refuses a user's folder that is not there, or holds a file of a shipped name, which Hydra would ignore."""
    if config_dir is None:
        return
    folder = Path(config_dir)
    if not folder.is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    for file in sorted(folder.rglob("*.yaml")):
        relative = file.relative_to(folder)
        if (conf_dir() / relative).exists():
            raise UserError(
                f"--config-dir {config_dir}: {relative} is the name of a shipped file; give yours another name"
            )


def compose(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """The composed configuration as plain containers (enums as strings, interpolations resolved), not yet validated.

    Raises `Refused` with a problem for each override that cannot be used.
    """
    return _composed(overrides, config_dir)[1]


def as_yaml(overrides: Sequence[str], config_dir: str | None = None) -> str:
    """The composed configuration as text, interpolations as they are written; raises as `compose` does."""
    return OmegaConf.to_yaml(_composed(overrides, config_dir)[0])


def _composed(
    overrides: Sequence[str], config_dir: str | None, composer: Composer | None = None
) -> tuple[DictConfig, dict[str, Any]]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    check_config_dir(config_dir)
    composer = composer or composer_of(config_dir)
    try:
        config = composer(overrides)
        container = plain(config)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise Refused(diagnose(list(overrides), config_dir, error, composer)) from error
    misleading = list(misleading_ones(overrides, config_dir))
    if misleading:
        raise Refused(misleading)
    return config, container


def composed(
    overrides: Sequence[str], config_dir: str | None = None, composer: Composer | None = None
) -> tuple[Config, dict[str, Any]]:
    """The validated configuration, whose network and data fit each other, and the plain containers it was made from.

    composer: that of `config_dir`, where there are several configurations to compose.
    """
    _, container = _composed(overrides, config_dir, composer)
    return fitted(container), container


def fitted(container: Mapping[str, Any]) -> Config:
    """The validated configuration of a run that is to be started: `fits`, and its name can be that of a folder."""
    config = fits(container)
    why = _reserved(config.name)
    if why:
        raise Refused([Problem("name", config.name, f"{why}; write another name")])
    return config


def _reserved(name: str) -> str | None:
    """Why a run cannot have this name, which is that of a folder in outputs/; None where it can."""
    if name in ("latest", "last"):
        return f"RUN={name} means the newest run"
    if name.startswith((".", "-", "~")):
        return f"begins with {name[0]}"
    if name in ("sweep.json", "result.json") or name.startswith("mlflow.db") or name.endswith((".lock", ".tmp")):
        return "is kept for a file"
    if name != name.strip() or not name.isprintable():
        return "has spaces at an end, or characters that cannot be printed"
    return None


def fits(container: Mapping[str, Any]) -> Config:
    """A composed configuration, validated: its network and data fit each other, the weights it names are there.

    So are the packages of its trackers: a run would fail only once its data and network are built.
    """
    config = validate(container)
    missing = [NEEDED[type(each)] for each in config.logger.values() if type(each) in NEEDED]
    missing = [package for package in missing if importlib.util.find_spec(package) is None]
    if missing:
        raise Refused([Problem("logger", package, missing_package(package)) for package in missing])
    spec, _, _ = match(config)
    if isinstance(spec, Network) and spec.weights:
        weights_file(spec.weights, OUTPUTS)
    return config


def composed_jobs(jobs: Iterable[Sequence[str]], config_dir: str | None) -> list[Config]:
    """The validated configuration of every job of a sweep; raises UserError with each problem of any, once."""
    problems = Problems(config_dir)
    configs = []
    for overrides in jobs:
        with problems.gathered(overrides):
            configs.append(fitted(plain(problems.composer(overrides))))
    problems.done()
    return configs


class Problems:
    """Gathers what is wrong with the jobs of a sweep, each problem once.

    A grid's jobs share their overrides, and to look at each override by itself takes time: those that an earlier job's
    diagnosis has looked at are not looked at again.
    """

    def __init__(self, config_dir: str | None):
        self.config_dir = config_dir
        self.composer = composer_of(config_dir)
        self._lines = dict[str, None]()
        self._overrides = dict[str, None]()  # of all jobs
        self._seen: set[str] = set()

    @contextmanager
    def gathered(self, overrides: Sequence[str]) -> Iterator[None]:
        """Around the composing and checking of one job: notes what that raises, and goes on."""
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        self._overrides |= dict.fromkeys(overrides)
        try:
            yield
        except UserError as error:
            self.note(error)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            if not self._seen.issuperset(overrides) or not self._lines:
                self.note(Refused(diagnose(list(overrides), self.config_dir, error, self.composer)))
                self._seen |= set(overrides)

    def note(self, error: UserError) -> None:
        """Adds an error's lines."""
        self._lines |= dict.fromkeys(str(error).splitlines())

    def done(self) -> None:
        """Raises UserError with all that was found, and with the overrides that do not do what they say."""
        misleading = list(misleading_ones(list(self._overrides), self.config_dir)) if not self._lines else []
        if misleading:
            self.note(Refused(misleading))
        if self._lines:
            raise UserError("\n".join(self._lines))


@contextmanager
def loaded(overrides: Sequence[str], config_dir: str | None) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """What composes the jobs of a sweep, for as long as the block lasts: Hydra's loader, and its configuration of all.

    That one has Hydra's own node `hydra`, and what is swept is left out of it. Raises `Refused` where it cannot be
    composed.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    register()
    with initialize_config_dir(version_base=VERSION_BASE, config_dir=str(conf_dir())):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        given = [*overrides, *_searchpath(config_dir)]
        try:
            master = hydra.compose_config(ROOT, given, RunMode.MULTIRUN, with_log_configuration=False)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise Refused([Problem("configuration", NO_VALUE, _cause(error))]) from error
        yield hydra.config_loader, master


def settings_of_hydra(overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    """The configuration with Hydra's own node `hydra`, as in `loaded`."""
    with loaded(overrides, config_dir) as (_, master):
        return master


def plain(config: DictConfig) -> dict[str, Any]:
    """Plain containers of a composed configuration. An enum in a checkpoint would break `weights_only` loading."""
    container = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def hydra_files(hydra: Any, overrides: Sequence[str], container: Mapping[str, Any]) -> dict[str, str]:
    """The files of `.hydra/` as Hydra writes them, by name, config.yaml last: where it is, all are.

    config.yaml has no interpolation: it is read back elsewhere, later, without Hydra. hydra: Hydra's own node.
    """
    node = OmegaConf.to_container(hydra, enum_to_str=True)
    assert isinstance(node, dict)
    node = {key: value for key, value in node.items() if key not in ("help", "hydra_help")}
    return {
        "hydra.yaml": to_yaml({"hydra": node}),
        "overrides.yaml": to_yaml(list(overrides)),
        "config.yaml": to_yaml(dict(container)),
    }


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """yaml's dumper, the compiled one where there is one, with OmegaConf's rule which texts are quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


def to_yaml(container: Any) -> str:
    """Plain containers as `OmegaConf.to_yaml` writes them, which makes a configuration of them first."""
    return str(yaml.dump(container, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))


def each_job(overrides: Sequence[str], config_dir: str | None = None) -> Iterator[list[str]]:
    """The overrides of each job of a sweep over a grid (`model=lrn,bn seed=1,2`): their product, in Hydra's order."""
    choices = []
    for text in overrides:
        parsed = parsed_override(text, Options(config_dir))
        if parsed.is_hydra_override():
            continue
        if parsed.is_sweep_override() and parsed.is_discrete_sweep():
            choices.append(swept(parsed))
        else:
            choices.append([parsed.input_line or ""])
    return (list(job) for job in itertools.product(*choices))


def check_texts(config_dir: str) -> None:
    """Refuses text in the user's YAML files that YAML reads as a number or a truth value of other letters."""
    files = [*Path(config_dir).rglob("*.yaml"), *(conf_dir() / MACHINE).glob("*.yaml")]
    lines = [
        f"{file}: {key}: {text} is a number or true to YAML; write {last}: '{text}'"
        for file in sorted(files)
        for key, last, text in changed_texts(file)
    ]
    if lines:
        raise UserError("\n".join(lines))


def typed(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """Overrides as Hydra takes them: text keeps its letters, and an argument of a user's class needs no `+`."""
    if config_dir:
        check_texts(config_dir)
    given = list(map(exact, overrides))
    unclear = [text for text in given if config_dir and re.match(rf"({'|'.join(ROLES)})\.[^=]+=", text)]
    if not unclear:
        return given
    options = groups(config_dir)
    # what is swept beside the groups that matter here would only multiply the compositions
    wanted = {text.partition(".")[0] for text in unclear} | WHOLE
    chosen = [text for text in given if text.partition("=")[0] in options.keys() & wanted]
    try:
        jobs = [composer_of(config_dir)(job) for job in each_job(chosen, config_dir)]
    except Exception:  # what is wrong with the options is reported with all the rest
        return given
    return [
        f"++{text}" if text in unclear and any(_is_new_argument(text, job) for job in jobs) else text for text in given
    ]


def _is_new_argument(override: str, config: DictConfig) -> bool:
    """Whether a setting belongs to a node with `_target_` that does not have it."""
    node: Any = config
    for part in override.partition("=")[0].split("."):
        if not isinstance(node, DictConfig) or node._is_none():
            return False
        if part not in node:
            return TARGET in node
        node = node._get_node(part)
    return False


def with_hydra(arguments: list[str], task: Callable[[DictConfig], Any]) -> None:
    """Lets Hydra compose the command line and call `task` with each job's configuration; its errors become one line.

    What `task` raises is raised again at the end: Hydra would print words of its own, and drop the jobs that follow.
    """
    import hydra
    from hydra.errors import HydraException

    raised: list[Exception] = []

    def guarded(config: DictConfig) -> None:
        try:
            task(config)
        except Exception as error:
            raised.append(error)

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # an exception, not Hydra's own printing and exit
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name=ROOT)(guarded)()
    except UserError:
        raise
    except HydraException as error:
        raise UserError(str(error).splitlines()[0]) from error
    except OSError as error:  # of the folder that Hydra makes; those of `task` are in `raised`
        what = f"{error.filename}: " if error.filename else ""
        raise UserError(f"hydra.run.dir: {what}{error.strerror}; name a folder that can be written") from None
    except ValueError as error:  # Hydra's, of flags that do not go together
        raise UserError(f"{str(error).splitlines()[0]}; python -m alexnet_exp --help tells what it takes") from error
    finally:
        sys.argv = before
    if raised:
        raise raised[0]


def composer_of(config_dir: str | None) -> Composer:
    """Composes what is no sweep: without Hydra's own node."""
    return Composer(lambda overrides: _compose(overrides, config_dir), group_names(config_dir))


def _compose(overrides: Sequence[str], config_dir: str | None) -> DictConfig:
    import hydra

    register()
    with _apart(), hydra.initialize_config_dir(version_base=VERSION_BASE, config_dir=str(conf_dir())):
        return hydra.compose(config_name=ROOT, overrides=[*overrides, *_searchpath(config_dir)])


@contextmanager
def _apart() -> Iterator[None]:
    """Inside, Hydra can be initialised once more: a sweep's jobs are looked at while it runs a command line."""
    from hydra.core.global_hydra import GlobalHydra

    one = GlobalHydra.instance()
    before, one.hydra = one.hydra, None
    try:
        yield
    finally:
        one.hydra = before


def _searchpath(config_dir: str | None) -> list[str]:
    return [f"hydra.searchpath=[{Path(config_dir).resolve().as_uri()}]"] if config_dir else []


def misleading_ones(overrides: Sequence[str], config_dir: str | None) -> Iterator[Problem]:
    """Overrides that Hydra takes and that do not do what they say."""
    options = groups(config_dir)
    for parsed in map(parsed_override, overrides):
        group, _, rest = parsed.key_or_group.partition(".")
        if rest == "name" and len(NODES.get(group, ())) > 1:
            yield Problem(parsed.key_or_group, parsed.value(), f"the name is fixed; choose another with {group}=NAME")
        if group == MACHINE and str(parsed.value()) not in options.get(
            MACHINE, ()
        ):  # the group is optional: Hydra says nothing
            yield Problem(MACHINE, parsed.value(), f"there is no conf/{MACHINE}/{parsed.value()}.yaml")


def diagnose(overrides: list[str], config_dir: str | None, error: Exception, composer: Composer) -> list[Problem]:
    """What is wrong with each override; where none is wrong by itself, what Hydra said of them together."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    options = groups(config_dir)
    problems: list[Problem] = []
    good: list[str] = []
    values: list[tuple[str, Any]] = []
    swept: list[Any] = []
    doubtful: set[str] = set()  # groups whose option is wrong: what is set below them cannot be judged
    for text in overrides:
        try:
            parsed = parsed_override(text)
        except Refused as refused:
            problems += refused.problems
            continue
        key = parsed.key_or_group
        if parsed.is_sweep_override():
            swept.append(parsed)
        elif key in options and parsed.package is None and not parsed.is_delete():
            wrong = _wrong_option(key, parsed.value(), options[key])
            problems += wrong
            doubtful |= {key} if wrong else set()
            good += [] if wrong else [text]
        elif not parsed.is_delete() and _is_nowhere(key, options):
            advice = of_setting(key, parsed.value(), () if "." in key else {*Config.__dataclass_fields__, *options})
            instead = f"unknown setting; {advice or 'python -m alexnet_exp --help lists the groups'}"
            problems.append(Problem(key, parsed.value(), instead))
        else:
            values.append((text, parsed))
    if swept:
        problems.append(_several_values(swept, overrides))
    if doubtful & WHOLE:
        return problems
    try:
        composer(good)
    except (HydraException, OmegaConfBaseException, ValueError) as of_files:  # the fault is in a YAML file
        return [*problems, Problem("configuration", NO_VALUE, _cause(of_files))]
    for text, parsed in values:
        if parsed.key_or_group.partition(".")[0] in doubtful:
            continue
        try:
            plain(composer([*good, text]))
        except (HydraException, OmegaConfBaseException, ValueError) as single:
            problems.append(_wrong_value(parsed, good, composer, options, single))
        else:
            good.append(text)
    problems += _of_the_rest(good, composer)
    return problems or [Problem("configuration", NO_VALUE, _cause(error))]


def _is_nowhere(key: str, options: Iterable[str]) -> bool:
    """Whether neither a setting of the root nor a group begins so."""
    first = key.partition(".")[0].partition("/")[0]
    return first not in {*Config.__dataclass_fields__, *options, "hydra"}


def _several_values(swept: Sequence[Any], overrides: Sequence[str]) -> Problem:
    """The problem with values of a sweep in a command for one run: the command to type."""
    intervals = not all(parsed.is_discrete_sweep() for parsed in swept)
    search = ["hydra/sweeper=optuna"] if intervals else []
    command = shlex.join(["python", "-m", "alexnet_exp", "-m", *search, *overrides])
    first = swept[0]
    key, _, value = (first.input_line or "").partition("=")
    quote = f"; for one text: {typed_text(key, value)}" if texts().get(key) is str else ""
    kind = "an interval is a search" if intervals else "several values are a sweep"
    return Problem(key, value, f"{kind}; add -m: {command}{quote}")


def _of_the_rest(good: list[str], composer: Composer) -> list[Problem]:
    """What validation says of the overrides that do compose: values out of range, contradictions."""
    try:
        validate(plain(composer(good)))
    except Refused as refused:
        return refused.problems
    except Exception:  # they do not compose together: the caller has Hydra's word for it
        return []
    return []


def _wrong_option(group: str, value: Any, options: list[str]) -> list[Problem]:
    if value is None:
        none = {
            "experiment": "leave it out",
            "debug": "leave it out",
            "callbacks": "write callbacks=[]",
            "logger": "write logger=[]",
        }
        return [Problem(group, None, f"for none {none[group]}" if group in none else suggest_name(None, options))]
    if isinstance(value, list) and group in NODES:
        return [Problem(group, value, f"takes one option; for a run of each: -m {group}={','.join(map(str, value))}")]
    chosen = value if isinstance(value, list) else [value]
    return [Problem(group, name, of_option(group, name, options)) for name in chosen if str(name) not in options]


def _wrong_value(
    parsed: Any, good: list[str], composer: Composer, options: dict[str, list[str]], error: Exception
) -> Problem:
    """The problem with `key=value`, in our words: an unknown key, or a value of another type than the key's."""
    from omegaconf.errors import GrammarParseError, InterpolationKeyError, InterpolationResolutionError

    key, value = parsed.key_or_group, parsed.value()
    first = key.partition(".")[0]
    interpolation = isinstance(
        error.__cause__ or error, GrammarParseError | InterpolationKeyError | InterpolationResolutionError
    )
    if interpolation or first.partition("/")[0] == "hydra" or parsed.package is not None:
        return Problem(key, value, _cause(error))
    if parsed.is_delete() and key in options:
        return _wrong_option(key, None, options[key])[0]
    if first == "model" and key.startswith("model.stages."):
        stages, name = plain(composer(good))["model"].get("stages", {}), key.split(".")[2]
        if name not in stages:
            near = nearest_name(name, stages)
            return Problem(key, value, f"no such stage; {f'did you mean {near}? ' if near else ''}{', '.join(stages)}")
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    try:
        validate(_merged(plain(composer(good)), nested))
    except Refused as refused:
        return next((problem for problem in refused.problems if problem.key.startswith(key)), refused.problems[0])
    except Exception:  # the other overrides do not compose either: their problems are told, this one as Hydra put it
        pass
    return Problem(key, value, _cause(error))


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **over, **both}


def _cause(error: Exception) -> str:
    """Hydra's error in one line, in our words: the file, what is wrong, and what was probably meant."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    lines[0] = re.sub(r"^\w+ raised while resolving interpolation: ", "cannot be resolved: ", lines[0])
    file = re.match(r"In '([^']+)': \w+ raised while composing config:$", lines[0])
    if file is None or len(lines) == 1:
        return _in_our_words(lines[0], "")
    key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "")
    if key.endswith(f".{TARGET}"):
        group = key.partition(".")[0]
        return (
            f"{file[1]}.yaml sets {key}; a class of your own is an option: write {group}/NAME.yaml, choose {group}=NAME"
        )
    return f"{file[1]}.yaml: {_in_our_words(lines[1], key)}"


_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def _in_our_words(line: str, key: str) -> str:
    """A line of Hydra's or OmegaConf's. key: the setting that it is about, where that is known."""
    at = f"{key}: " if key else ""
    if re.match(r"Key '[^']*' (is not in struct|not in '\w+')", line):
        advice = of_setting(key, None) if key else None
        return f"{at}unknown setting" + (f"; {advice}" if advice else "")
    if found := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", line):
        return f"{f'{key}={found[1]}: ' if key else ''}must be {_TYPES.get(found[2], found[2])}"
    if found := re.match(r"(?:In '[^']*': )?Could not find '(hydra/\w+|\w+)/([^']+)'", line):
        return f"there is no option {found[1]}={found[2]}"
    if found := re.match(r"Could not (?:override|delete) '([^']+)'", line):
        return f"no option of {found[1]} is chosen that could be replaced"
    if found := re.match(r"Multiple values for (\S+?)\.", line):
        return f"{found[1]}: is chosen already; write {found[1]}=OPTION without +"
    return line
