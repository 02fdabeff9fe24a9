"""What was found, as charts and as one page that opens from disk."""

from diffmech.heads.tables import reported
from diffmech.report.heads.charts import every_chart

# What `snakemake --report` shows is the SVG; the page draws the Vega-Lite beside it.
CHARTS = every_chart()

# What the page reads: the declared tables by name, and what is no table.
ARTIFACTS = {
    **{name: table.at(model=study.model) for name, table in reported().items()},
    "comparison": "results/datasets/comparison.json",
    "model": f"results/models/{study.model}/model.json",
    "gallery": f"results/models/{study.model}/gallery.zarr.zip",
    "resampled": f"results/resampling/{study.model}/examples.zarr.zip",
    "references": shipped("references.yaml"),
}


rule report:
    """The page."""
    input:
        "results/report.html",


rule draw_charts:
    """Draw every chart: as Vega-Lite with its data, and as SVG."""
    input:
        **ARTIFACTS,
        datasets=[by_content(store) for store in study.studied_stores()],
        digests=study.digests(study.studied_stores()),
        circuits=heads.circuits(),
        attention_first=heads.attention(study.datasets[0]),
        attention_second=heads.attention(study.datasets[1]),
        settled=settled_groups,
    output:
        specs=[f"results/report/charts/{chart.name}.vl.json" for chart in CHARTS],
        pictures=[
            report(
                f"results/report/charts/{chart.name}.svg",
                caption=f"../resources/captions/{chart.name}.rst",
                category=chart.chapter,
                labels={"chart": chart.name.replace("_", " ")},
            )
            for chart in CHARTS
        ],
    log:
        "results/logs/draw_charts.log",
    benchmark:
        "results/benchmarks/draw_charts.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.config.model_dump(mode="json", exclude={"runtime"}),
        domains=list(study.domains),
        code=study.code("draw_charts"),
    message:
        "Drawing the charts"
    script:
        "../workflow_scripts/draw_charts.py"


rule write_report:
    """Write the page: one file that opens from disk, without any network."""
    input:
        **ARTIFACTS,
        datasets=[by_content(store) for store in study.studied_stores()],
        digests=study.digests(study.studied_stores()),
        circuits=heads.circuits(),
        attention_first=heads.attention(study.datasets[0]),
        attention_second=heads.attention(study.datasets[1]),
        charts=rules.draw_charts.output.specs,
        groups=study.groups(),
        settled=settled_groups,
    output:
        page=report(
            "results/report.html",
            caption="../resources/captions/page.rst",
            category="0 The page",
            labels={"chart": "all of it, explained"},
        ),
        findings="results/report/findings.json",
    log:
        "results/logs/write_report.log",
    benchmark:
        "results/benchmarks/write_report.tsv"
    conda:
        "../envs/diffmech.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=study.config.model_dump(mode="json", exclude={"runtime"}),
        domains=list(study.domains),
        grouped=study.grouped,
        code=study.code("write_report"),
    message:
        "Writing the report"
    script:
        "../workflow_scripts/write_report.py"
