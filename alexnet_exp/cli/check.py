"""`check [overrides]`: composes, validates and builds an experiment, and trains one batch. For CI."""

from __future__ import annotations

from dataclasses import replace

from alexnet_exp.cli.output import report_loading
from alexnet_exp.cli.parser import with_overrides
from alexnet_exp.config.compose import compose_run
from alexnet_exp.config.schema import Config


def run(arguments: list[str]) -> int:
    """Prints one line and returns 0 if the experiment can start."""
    parser = with_overrides("check", "Composes, validates and builds an experiment, and trains one batch.")
    given = parser.parse_args(arguments)
    config = compose_run(given.overrides, given.config_dir).config
    report_loading()
    print(one_batch(config))
    return 0


def one_batch(config: Config) -> str:
    """Builds the experiment and trains one batch on one device; returns one line to print."""
    from alexnet_exp import logs
    from alexnet_exp.training.build import build, lay_out, prepare
    from alexnet_exp.training.devices import check_ranks, place, select_devices
    from alexnet_exp.training.trainer import build_trainer

    logs.configure(None)
    select_devices(config.trainer)  # rejects missing devices before anything is built
    check_ranks(config)
    experiment = build(config)
    placement = place(config.trainer, experiment.multiply_adds)
    lay_out(experiment, placement.channels_last)
    prepare(experiment)
    # one device, because for more Lightning would start this command again
    first = placement.devices[:1] if isinstance(placement.devices, list) else 1
    alone = replace(placement, devices=first, strategy="auto")
    config.trainer.fast_dev_run, config.trainer.num_nodes = True, 1  # otherwise it would wait for the other machines
    trainer = build_trainer(config.trainer, alone, [], [])
    trainer.fit(experiment.module, datamodule=experiment.data)
    loss = getattr(experiment.module, "last_loss", None)
    loss_text = f", loss {loss.item():.4f} on one batch" if loss is not None else ""
    network = type(experiment.network).__name__
    return f"ok: {network} on {placement.device_name}, precision {placement.precision}{loss_text}"
