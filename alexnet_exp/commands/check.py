"""`check [overrides]`: an experiment composed, validated, built, and one batch of it trained; nothing is kept. For CI."""

from __future__ import annotations

from alexnet_exp.commands.parser import with_overrides
from alexnet_exp.config import composed


def run(arguments: list[str]) -> int:
    """Prints one line and returns 0 where the experiment would start."""
    parser = with_overrides("check", "An experiment composed, validated, built, and one batch of it trained.")
    given = parser.parse_args(arguments)
    config, _ = composed(given.overrides, given.config_dir)

    from alexnet_exp import logs
    from alexnet_exp.build import build
    from alexnet_exp.devices import place
    from alexnet_exp.train import build_trainer, prepare

    logs.configure(None)
    placement = place(config.trainer)
    experiment = build(config)
    prepare(experiment)
    # One device: a rank of several would be a process that runs this command again
    alone = place(type(config.trainer)(gpus=0)) if placement.ranks > 1 and placement.accelerator == "cpu" else placement
    config.trainer.fast_dev_run = True
    trainer = build_trainer(config.trainer, alone, [], [])
    trainer.fit(experiment.module, datamodule=experiment.data)
    loss = getattr(experiment.module, "last_loss", None)
    said = f", loss {loss.item():.4f} on one batch" if loss is not None else ""
    print(f"ok: {type(experiment.network).__name__} on {placement.device_name}, precision {placement.precision}{said}")
    return 0
