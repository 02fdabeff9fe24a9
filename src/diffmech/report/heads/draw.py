"""Drawing the charts of the main study: what their functions may ask for, and the files that they become."""

import json
from pathlib import Path
from typing import Any

from diffmech.artifacts import atomic_path
from diffmech.config.analysis import AblationConfig
from diffmech.report.drawing import specification, write_text
from diffmech.report.heads.artifacts import ReportInputs, Tables, read_tables
from diffmech.report.heads.charts import every_chart


def known(tables: Tables, ablation: AblationConfig) -> dict[str, Any]:
    """Return every table by its name, and the facts of the study."""
    return {**vars(tables), **tables.frames, "ablation": ablation}


def draw_charts(inputs: ReportInputs, folder: Path, *, ablation: AblationConfig) -> None:
    """Write `<name>.vl.json` (Vega-Lite with its data) and `<name>.svg` of every chart to `folder`."""
    import vl_convert

    what = known(read_tables(inputs), ablation)
    for chart in every_chart():
        spec = specification(chart.drawn(what))
        with atomic_path(Path(folder) / f"{chart.name}.vl.json") as path:
            path.write_text(write_text(spec), encoding="utf-8")
        with atomic_path(Path(folder) / f"{chart.name}.svg") as path:
            path.write_text(vl_convert.vegalite_to_svg(json.dumps(spec)), encoding="utf-8")
