"""Suggests what to write instead of an unknown setting, option or command. Does not import torch.

Names of other programs come first (timm, Ultralytics, Keras, Lightning CLI, argparse), then the most similar name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

from alexnet_exp.config.schema import COLLECTIONS, NODES, Config
from alexnet_exp.errors import nearest_name, normalize_name, suggest_name, yaml_text
from alexnet_exp.paths import groups

# A setting and its names in other programs, compared without case, hyphens and underscores.
_ALIASES = {
    "trainer.max_epochs": "epochs epoch n_epochs num_epochs nb_epochs train_epochs num_train_epochs total_epochs",
    "trainer.max_steps": "steps num_steps n_steps train_steps iterations iters",
    "trainer.max_time": "time_limit",
    "trainer.accumulate_grad_batches": "accum accumulate grad_accum grad_accumulation gradient_accumulation_steps",
    "trainer.gradient_clip_val": "clip clip_grad grad_clip clip_norm max_norm max_grad_norm clipnorm gradient_clip",
    "trainer.sync_batchnorm": "sync_bn syncbn",
    "trainer.log_every_n_steps": "log_interval log_every print_freq",
    "trainer.check_val_every_n_epoch": "val_interval eval_interval validation_freq check_val_every",
    "trainer.enable_progress_bar": "progress_bar progbar",
    "trainer.compile": "torch_compile torchcompile compile_mode",
    "trainer.on_nan": "skip_nan",
    "trainer.gpus": "n_gpu n_gpus num_gpus ngpus gpus_per_node nproc_per_node world_size",
    "trainer.num_nodes": "nodes nnodes n_nodes",
    "optim.lr": "learning_rate learningrate base_lr init_lr initial_lr lr0 eta max_lr step_size",
    "optim.weight_decay": "wd decay l2 weightdecay",
    "optim.betas": "beta beta1 beta2 opt_betas",
    "optim.eps": "epsilon opt_eps adam_epsilon",
    "data.batch_size": "bs batch batches b mini_batch train_batch_size per_device_train_batch_size batch_size_per_gpu",
    "data.workers": "num_workers n_workers nworkers j loader_workers dataloader_num_workers",
    "data.root": "data_dir data_path dataset_path dataset_dir dataset_root train_dir traindir train_data image_dir",
    "data.val_fraction": "val_split validation_split val_ratio val_size valid_fraction val_percent",
    "data.mirror": "hflip flip fliplr horizontal_flip random_flip",
    "data.subset": "n_train num_samples max_samples max_train_samples fraction",
    "data.crop": "crop_size random_crop_size",
    "model.num_classes": "nc n_classes nb_classes classes number_of_classes",
    "model.in_channels": "channels in_chans n_channels ch",
    "data.size": "imgsz img_size image_size imgsize resolution im_size",
    "model.dropout": "drop drop_rate dropout_rate p_drop",
    "model.norm": "norm_layer normalization batch_norm batchnorm",
    "model.width": "width_mult width_multiplier",
    "model.activation": "act activation_fn nonlinearity",
    "model.weights": "weight init_weights initial_checkpoint finetune",
    "loss.label_smoothing": "smoothing labelsmoothing",
    "schedule.warmup": "warmup_epochs warmup_steps warmup_ratio num_warmup_steps",
    "schedule.milestones": "lr_steps decay_epochs decay_milestones",
    "schedule.factor": "gamma decay_rate lr_gamma",
    "schedule.end": "min_lr lrf eta_min lr_min",
    "seed": "random_seed rng_seed manual_seed random_state seed_everything",
    "name": "exp_name experiment_name run_name project run_id exp",
    "note": "notes description comment",
    "tags": "tag labels",
    "objective": "metric monitor optimized_metric",
    "checkpoint.every": "save_every save_freq save_period save_interval checkpoint_every",
    "checkpoint.keep": "save_top_k save_best save_best_only",
    "test.views": "tta ten_crop tencrop",
    "hydra.run.dir": "output_dir out_dir outdir output log_dir logdir save_dir result_dir work_dir workdir",
    "hydra.launcher.jobs": "n_jobs num_jobs jobs parallel",
    "hydra.sweeper.n_trials": "n_trials trials num_trials",
    # groups
    "model": "arch architecture net network backbone model_name",
    "data": "dataset ds datamodule data_module dataset_name data_set",
    "optim": "optimizer optimiser opt optimizer_name",
    "schedule": "scheduler sched lr_scheduler lr_schedule lrsched policy",
    "callbacks": "callback",
    "logger": "loggers tracker report_to log_to",
}
ALIASES = {normalize_name(name): setting for setting, names in _ALIASES.items() for name in names.split()}

RUN_COMMANDS = (
    "write python -m alexnet_exp runs show last to print it, or python -m alexnet_exp resume last to resume it"
)
RESUME = "write python -m alexnet_exp resume RUN"
_DEVICES = "device accelerator gpu cuda gpu_ids gpu_id use_gpu cpu"
# A name of another program, and what to write; `{}` is the given value.
_WRITE = {
    "write model=torchvision model.weights=FILE, or model.weights=RUN": "pretrained use_pretrained imagenet_weights",
    RESUME: "ckpt ckpt_path resume resume_from resume_from_checkpoint resume_path load load_checkpoint checkpoint_path",
    "write trainer.precision=16-mixed": "amp fp16 half mixed_precision use_amp",
    "write trainer.precision=bf16-mixed": "bf16 bfloat16",
    "write callbacks=early_stopping callbacks.early_stopping.patience={}": "patience early_stopping_patience",
    "write callbacks=early_stopping": "early_stopping earlystopping early_stop",
    "write callbacks=ema": "ema model_ema use_ema",
    "write callbacks=ema callbacks.ema.decay={}": "ema_decay model_ema_decay",
    "write logger=wandb": "wandb use_wandb",
    "write logger=tensorboard": "tensorboard tb",
    "write logger=mlflow": "mlflow",
}
_ADVICE = {normalize_name(name): words for words, names in _WRITE.items() for name in names.split()}

# Options of other programs, by group.
_OPTIONS = {
    "model": {"batchnorm": "bn", "bnalexnet": "bn", "lrnalexnet": "lrn", "alexnetpaper": "paper", "lenet": "lenet5"},
    "data": {
        "cifar": "cifar10",
        "imagefolder": "folder",
        "images": "folder",
        "custom": "folder",
        "imagenet1k": "imagenet",
        "ilsvrc2012": "imagenet",
        "fake": "random",
        "fakedata": "random",
        "synthetic": "random",
    },
    "optim": {"momentum": "sgd", "sgdm": "sgd"},
    "schedule": {
        "cos": "cosine",
        "cosineannealing": "cosine",
        "cosineannealinglr": "cosine",
        "onecyclelr": "one_cycle",
        "step": "steps",
        "steplr": "steps",
        "multistep": "steps",
        "multisteplr": "steps",
        "reducelronplateau": "plateau",
        "reduceonplateau": "plateau",
        "none": "constant",
        "fixed": "constant",
    },
    "logger": {"tb": "tensorboard"},
    "callbacks": {"es": "early_stopping", "earlystop": "early_stopping", "modelema": "ema"},
}
_GPU = ("gpu", "cuda", "mps", "auto", "true", "gpus")
_OWN = {"model": "a network", "data": "data", "optim": "an optimizer", "schedule": "a schedule"}

_COMMANDS = {
    "train": "fit run start main",
    "eval": "test val valid validate evaluate evaluation",
    "predict": "infer inference pred classify",
    "bench": "benchmark profile speed",
    "resume": "continue restart",
    "runs": "list ls show status",
    "plot": "viz visualize draw",
    "summary": "info describe torchinfo",
    "compare": "diff versus vs",
    "sweep": "tune search hpo multirun",
}
COMMANDS = {name: command for command, names in _COMMANDS.items() for name in names.split()}


def suggest_setting(key: str, value: Any, among: Collection[str] = (), option: str = "") -> str | None:
    """Returns advice for an unknown setting: `did you mean optim.lr?`; None if no name is similar.

    key: the full key. among: the settings of the given node, which are searched first. option: the chosen option of the
    node's group.
    """
    above, _, last = key.rpartition(".")
    same = next((name for name in among if normalize_name(name) == normalize_name(last)), None)
    if same is not None:
        return _mean(f"{above}.{same}" if above else same)
    elsewhere = _other_class(above, last, option)
    if elsewhere:
        return elsewhere
    if moved := _other_first(key):
        return _mean(moved)
    if (words := suggest_by_habit(last, value)) is not None:
        return words
    near = nearest_name(last, among)
    if near is not None:
        return _mean(f"{above}.{near}" if above else near)
    anywhere = nearest_name(last, _short_names())
    found = None if anywhere is None else _short_names()[anywhere]
    return None if found is None or found == key else _mean(found)


def suggest_by_habit(name: str, value: Any) -> str | None:
    """Returns advice for a name of a setting in other programs; None if it is unknown."""
    word = normalize_name(name)
    if word in map(normalize_name, _DEVICES.split()):
        return f"write {_device(value if word != 'cpu' else 'cpu')}"
    if word in _ADVICE:
        return _ADVICE[word].format(yaml_text(value))
    if word in ALIASES:
        return _mean(_with_option(ALIASES[word], value))
    return None


def instead(name: str, value: str | None) -> str | None:
    """Returns how to write a setting that was typed as a flag (`--lr 0.1`): `write optim.lr=0.1`; None if unknown."""
    key = name.replace("-", "_") if name.replace("-", "_") in _known() else name
    if key in _known() and key != "resume":
        return f"write {key}={'VALUE' if value is None else value}"
    words = suggest_by_habit(key.rpartition(".")[2], value) or suggest_setting(key, value)
    return None if words is None else _written(words, value)


def _written(words: str, value: str | None) -> str:
    """Returns advice on a setting with the given value."""
    if not words.startswith("did you mean "):
        return words
    setting = words.removeprefix("did you mean ").removesuffix("?")
    return f"write {setting}" if "=" in setting else f"write {setting}={'VALUE' if value is None else value}"


def suggest_option(group: str, value: Any, options: Iterable[str], config_dir: str | None = None) -> str:
    """Returns advice for an unknown option: the most similar one first, then all."""
    options = list(options)
    text = str(value)
    path = _as_path(text, group, options)
    if path is not None:
        return f"write {group}={path}"
    if group == "trainer" and text.lower() in _GPU:
        return "write trainer.gpus=1"
    if group == "model" and normalize_name(text) == "alexnet":
        return "every model but lenet5 is an AlexNet; write model=bn (the default), model=lrn or model=paper"
    last = text.rpartition(".")[2]  # torch.optim.SGD
    alias = _OPTIONS.get(group, {}).get(normalize_name(last))
    if alias in options:
        return f"did you mean {alias}? one of {', '.join(options)}"
    words = suggest_name(value if nearest_name(value, options) else last, options)
    if group in _OWN and not words.startswith("did you mean"):
        folder = "data=folder takes a folder of images; " if group == "data" else ""
        words += f"; {folder}{_OWN[group]} of your own: docs/guides/extend.md"
    return words


def suggest_argument(word: str, commands: Collection[str], options: Mapping[str, Collection[str]]) -> str:
    """Returns advice for an argument that is neither a command nor an override.

    commands: empty after the first argument.
    """
    if word in options:
        return f"needs a value; write {word}=OPTION: one of {', '.join(options[word])}"
    found = [f"{group}={path}" for group, names in options.items() if (path := _as_path(word, group, names))]
    found = found or [f"{group}={word}" for group, names in options.items() if word in names]
    if found:
        return f"write {' or '.join(sorted(found, key=lambda text: not text.startswith('experiment')))}"
    near = nearest_name(word, commands) or COMMANDS.get(normalize_name(word)) if commands else None
    if near is None and word in ("last", "latest"):
        return f"is a run, which this command does not take; {RUN_COMMANDS}"
    if near is None and (word in _known() or "." in word):
        return f"needs a value; write {word}=VALUE"
    words = suggest_by_habit(word, None) if near is None else None
    if words is not None:
        return f"needs a value; {_written(words, None)}"
    if not commands:
        return "is no override; write KEY=VALUE"
    meant = f"did you mean {near}? " if near else ""
    return f"no such command; {meant}one of {', '.join(commands)}, or overrides such as model=lrn"


def _mean(setting: str) -> str:
    return f"did you mean {setting}?"


def _with_option(setting: str, value: Any) -> str:
    """Returns a group with the option that the value means, or the setting unchanged."""
    options = groups().get(setting)
    if options is None or value is None:
        return setting
    last = str(value).rpartition(".")[2]
    option = _OPTIONS.get(setting, {}).get(normalize_name(last)) or nearest_name(last, options)
    return f"{setting}={option}" if option else f"{setting}=OPTION"


def _device(value: Any) -> str:
    text = str(value).lower()
    if text.removeprefix("cuda:").isdigit():
        return f"trainer.gpus=[{text.removeprefix('cuda:')}] for that GPU, or trainer.gpus=0 for the CPU"
    if text in ("cpu", "false", "-1"):
        return "trainer.gpus=0, or trainer=cpu"
    return "trainer.gpus=1"


def _other_class(group: str, name: str, option: str) -> str | None:
    """Returns advice for a setting that other options of the group have, but not the chosen one."""
    classes = NODES.get(group, {})
    having = [option for option, cls in classes.items() if name in (field.name for field in dataclasses.fields(cls))]
    if not having or len(having) == len(classes):
        return None
    if group == "data" and "folder" in having:
        having = ["folder", *(each for each in having if each != "folder")]
    listed = ", ".join(f"{group}={each}" for each in having[:-1])
    listed += (" or " if listed else "") + f"{group}={having[-1]}"
    return f"{group}={option or 'OPTION'} has no {name}; add {listed}"


def _other_first(key: str) -> str | None:
    """Returns the existing setting for `optimizer.lr` or `trian.max_epochs`, whose group has another name."""
    first, dot, rest = key.partition(".")
    if not dot:
        return None
    group = ALIASES.get(normalize_name(first)) or nearest_name(first, groups())
    near = nearest_name(rest, [each.removeprefix(f"{group}.") for each in _known() if each.startswith(f"{group}.")])
    return f"{group}.{near}" if group and near and group != first else None


def _as_path(text: str, group: str, options: Collection[str]) -> str | None:
    """Returns the option of the path of a YAML file: conf/experiment/tutorial.yaml, lrn.yaml."""
    if not re.search(r"[/\\]|\.ya?ml$", text):
        return None
    bare = re.sub(r"\.ya?ml$", "", text.replace("\\", "/"))
    inside = re.search(rf"(?:^|/){group}/(.+)$", bare)
    named = inside[1] if inside else bare
    return named if named in options and (inside or "." in text) else None


@cache
def _short_names() -> dict[str, str]:
    """Returns every setting by its last part: those of the root first, then those of the groups."""
    full = {name: name for name in Config.__dataclass_fields__}
    for group, classes in NODES.items():
        for cls in classes.values():
            full |= {field.name: f"{group}.{field.name}" for field in dataclasses.fields(cls) if field.name not in full}
    return full


@cache
def _known() -> set[str]:
    """Returns every setting and group by its full name."""
    known = {*Config.__dataclass_fields__, *groups()}
    for group, classes in NODES.items():
        for cls in classes.values():
            known |= {f"{group}.{field.name}" for field in dataclasses.fields(cls)}
    for group, classes in COLLECTIONS.items():
        for name, cls in classes.items():
            known |= {f"{group}.{name}.{field.name}" for field in dataclasses.fields(cls)}
    for field in dataclasses.fields(Config):
        node: Any = field.default_factory
        if dataclasses.is_dataclass(node):
            known |= {f"{field.name}.{each.name}" for each in dataclasses.fields(node)}
    return known
