"""Trains a linear model and shows in TensorBoard how.

Example:
  python -m pipeline.train --epochs=100 --learning_rate=0.05

Everything of a run goes into <logdir>/<run_name>: event files for TensorBoard, pictures,
and the trained model as a SavedModel.
"""

from pipeline import cli, examples, folder, output


def main(arguments: list[str]) -> None:
    """Runs what the flags ask for."""
    cli.refuse(arguments)
    config = cli.config_from_flags()
    config = config.with_changes(run_name=config.run_name or folder.name_from_time())
    paths = folder.RunFolder.of(config)
    paths.check(config)
    data = examples.load(config)
    output.say(
        f"Training {paths.path}: {config.model} model, {config.loop} loop, "
        f"{len(data.train.y):,} examples, {config.epochs:,} epochs"
    )
    cli.import_tensorflow()
    from pipeline import run, stopping

    with stopping.StopRequest() as stop:
        run.train(config, data, stop)


if __name__ == "__main__":
    cli.define_flags()
    cli.start(main)
