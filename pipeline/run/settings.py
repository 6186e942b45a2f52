"""Settings of a run's directory and its content. Standard library only."""

import dataclasses
import re

from pipeline import errors, fields

_FORMATS = ("litert", "onnx")


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """When checkpoints are saved."""

    checkpoint_every: int = fields.step_count(
        0, "Steps between checkpoints, or 0 for --checkpoint_secs.", may_change=True
    )
    checkpoint_secs: float = fields.field(
        10.0, "Seconds between checkpoints.", above=0, may_change=True
    )


@dataclasses.dataclass(frozen=True)
class Workers:
    """Several machines that train together."""

    peer_timeout_secs: int = fields.output_only(
        60,
        "With several workers (TF_CONFIG): seconds to wait for another to start, or to answer.",
        at_least=1,
        at_most=86400,
    )


@dataclasses.dataclass(frozen=True)
class Export:
    """The exported model."""

    export: str = fields.output_only(
        "last",
        "Export the model of the last step, or that of the best evaluation. Run the same command "
        "with the other value to export again without training.",
        choices=("last", "best"),
    )
    export_formats: str = fields.output_only(
        "",
        "Formats to write beside the SavedModel, separated by commas: litert, onnx. They need the "
        "extra pipeline[export].",
    )
    export_versions_to_keep: int = fields.output_only(
        0, "Remove all but so many versions of the export, the newest; 0 keeps all.", at_least=0
    )

    def _check(self) -> None:
        errors.require(
            set(self.formats) <= set(_FORMATS),
            f"--export_formats must be some of {', '.join(_FORMATS)}; received "
            f"{self.export_formats!r}",
        )

    @property
    def formats(self) -> tuple[str, ...]:
        """The names in --export_formats."""
        return fields.split(self.export_formats)


@dataclasses.dataclass(frozen=True)
class Output:
    """The directory of the run."""

    logdir: str = fields.output_only(
        "logs", "The directory that holds the directories of the runs."
    )
    run_name: str = fields.output_only(
        "",
        "Name of the run's directory in --logdir; by default made from the time. An unfinished "
        "run of that name is resumed.",
    )
    overwrite: bool = fields.output_only(
        False, "Start anew, and rename an earlier run of that name."
    )

    def _check(self) -> None:
        fields.check_path("logdir", self.logdir)
        errors.require(
            re.fullmatch(r"(?!\.{1,2}$)[\w.,=+-]*", self.run_name),
            "--run_name must be the plain name of a directory (letters, digits and ._,=+-); "
            f"received {self.run_name!r}; give its parent with --logdir",
        )
