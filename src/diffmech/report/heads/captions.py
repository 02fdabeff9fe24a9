"""resources/captions, generated from the declarations of charts: what `snakemake --report` shows beside each.

Run: python -m diffmech.report.heads.captions
"""

from pathlib import Path

from diffmech.report.heads.charts import PAGE, every_chart

FOLDER = Path(__file__).parents[4] / "resources" / "captions"
# Snakemake fills in a caption with the job that made the chart; captions are written over settings and domains.
_NAMES = "{% set settings = snakemake.params.settings %}{% set domains = snakemake.params.domains %}\n"


def captions() -> dict[str, str]:
    """Return the text of every caption by the name of its file, without the ending."""
    declared = {chart.name: chart.caption for chart in every_chart()} | {"page": PAGE}
    return {name: f"{_NAMES}{caption}\n" for name, caption in declared.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.rst"):
        stale.unlink()
    for name, text in captions().items():
        (FOLDER / f"{name}.rst").write_text(text, encoding="utf-8")
