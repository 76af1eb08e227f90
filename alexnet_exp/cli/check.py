"""`check [overrides]`: an experiment composed, validated, built, and one batch of it trained. For CI."""

from __future__ import annotations

from dataclasses import replace

from alexnet_exp.cli.parser import with_overrides
from alexnet_exp.config.compose import composed
from alexnet_exp.config.schema import Config


def run(arguments: list[str]) -> int:
    """Prints one line and returns 0 where the experiment would start."""
    parser = with_overrides("check", "An experiment composed, validated, built, and one batch of it trained.")
    given = parser.parse_args(arguments)
    config, _ = composed(given.overrides, given.config_dir)
    print(one_batch(config))
    return 0


def one_batch(config: Config) -> str:
    """Builds the experiment and trains one batch of it on one device; returns what to tell of that, one line."""
    from alexnet_exp import logs
    from alexnet_exp.training.build import build, lay_out, prepare
    from alexnet_exp.training.devices import check_ranks, place, select_devices
    from alexnet_exp.training.trainer import build_trainer

    logs.configure(None)
    select_devices(config.trainer)  # refuses devices that are not there before anything is built
    check_ranks(config)
    experiment = build(config)
    placement = place(config.trainer, experiment.multiply_adds)
    lay_out(experiment, placement.channels_last)
    prepare(experiment)
    # one device: for more Lightning would run this command again
    first = placement.devices[:1] if isinstance(placement.devices, list) else 1
    alone = replace(placement, devices=first, strategy="auto")
    config.trainer.fast_dev_run, config.trainer.num_nodes = True, 1  # or it would wait for the other machines
    trainer = build_trainer(config.trainer, alone, [], [])
    trainer.fit(experiment.module, datamodule=experiment.data)
    loss = getattr(experiment.module, "last_loss", None)
    said = f", loss {loss.item():.4f} on one batch" if loss is not None else ""
    return f"ok: {type(experiment.network).__name__} on {placement.device_name}, precision {placement.precision}{said}"
