"""rlmrec options: list what --set can set."""

from __future__ import annotations

from rlmrec.cli.arguments import AlignmentOption, BackboneOption, JsonOption, PresetOption
from rlmrec.experiments import DEFAULT_PRESET


def options(
    backbone: BackboneOption = None,
    alignment: AlignmentOption = "none",
    preset: PresetOption = DEFAULT_PRESET,
    as_json: JsonOption = False,
) -> None:
    """List the options that `--set` accepts for a backbone and an alignment: type, value in the preset, meaning.

    **Example:**  `rlmrec options --backbone sgl --alignment generative --preset yelp`
    """
    from rlmrec.cli.output import Output
    from rlmrec.experiments.spec import RunSpec, describe_options
    from rlmrec.models import default_backbone

    backbone = backbone or default_backbone(alignment)

    output = Output(as_json)
    rows = describe_options(RunSpec.resolve(backbone, alignment, preset))
    output.table(
        f"options of {backbone} with alignment {alignment}; values of preset {preset}",
        ["--set", "type", "value", "default", "meaning"],
        [[row["name"], row["type"], f"{row['value']}", f"{row['default']}", row["meaning"]] for row in rows],
        text_columns=5,
    )
    output.result({"backbone": backbone, "alignment": alignment, "preset": preset, "options": rows})
