"""The page of a run that was packed, on any machine: python -m benchmarks.paper.report --from OUT [--to FOLDER].

Charts and page are drawn by the functions that the rules of the workflow call, from the tables and excerpts in OUT.
Written are report.html, findings.json and the charts.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.paper.packing import unpack

from diffmech.config.load import read_config
from diffmech.config.root import Config
from diffmech.heads.tables import reported
from diffmech.report.heads.artifacts import ReportInputs
from diffmech.report.heads.charts import every_chart
from diffmech.report.heads.draw import draw_charts
from diffmech.report.heads.page import write_report

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Unpack a run and write its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--from", dest="packed", type=Path, required=True, help="what a run left in --out")
    parser.add_argument("--to", type=Path, help="folder for the page; that same folder")
    options = parser.parse_args()
    output = options.to or options.packed
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        unpack(options.packed, work)
        config = read_config(ROOT / "config.yaml", work / "study.yaml")
        inputs = packed_inputs(work, config)
        draw_charts(inputs, output / "charts", ablation=config.ablation)
        charts = [str(output / "charts" / f"{chart.name}.vl.json") for chart in every_chart()]
        write_report(inputs, charts, output / "report.html", output / "findings.json", config=config)
    print(output / "report.html")


def packed_inputs(work: Path, config: Config) -> ReportInputs:
    """Return what the page is made from, as `unpack` laid it out below `work`."""
    model, results = config.study.model, work / "results"
    domains = config.study.domains
    attention = {d: sorted((results / f"attention/{model}/{name}").rglob("*.zarr.zip")) for d, name in domains.items()}
    return ReportInputs(
        datasets={domain: str(results / f"datasets/{name}.zarr.zip") for domain, name in domains.items()},
        attention={domain: list(map(str, stores)) for domain, stores in attention.items()},
        circuits={domain: str(results / f"circuit/{model}/{name}/circuit.json") for domain, name in domains.items()},
        tables={name: str(work / table.at(model=model)) for name, table in reported().items()},
        comparison=str(results / "datasets/comparison.json"),
        model=str(results / f"models/{model}/model.json"),
        gallery=str(results / f"models/{model}/gallery.zarr.zip"),
        resampled=str(results / f"resampling/{model}/examples.zarr.zip"),
        references=str(ROOT / "resources/references.yaml"),
        benchmarks=str(results / "benchmarks"),
    )


if __name__ == "__main__":
    main()
