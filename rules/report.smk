from diffmech.report.heads.charts import every_chart

# What `snakemake --report` shows is the SVG; the page draws the Vega-Lite beside it.
CHARTS = every_chart()

TABLES = {
    "comparison": "results/datasets/comparison.json",
    "model": f"results/models/{study.model}/model.json",
    "seen": f"results/models/{study.model}/seen.csv",
    "seen_divergence": f"results/entropy/{study.model}/seen.csv",
    "heldout": f"results/models/{study.model}/heldout.csv",
    "denoising": f"results/models/{study.model}/denoising.csv",
    "gallery": f"results/models/{study.model}/gallery.zarr.zip",
    "entropy": f"results/entropy/{study.model}/heads.csv",
    "divergence": f"results/entropy/{study.model}/divergence.csv",
    "factorial": f"results/entropy/{study.model}/factorial.csv",
    "phases": f"results/mechanisms/{study.model}/phases.csv",
    "clusters": f"results/mechanisms/{study.model}/clusters.csv",
    "mechanisms": f"results/mechanisms/{study.model}/heads.csv",
    "effects": f"results/ablation/{study.model}/effects.csv",
    "windows": f"results/ablation/{study.model}/windows.csv",
    "patching": f"results/patching/{study.model}/effects.csv",
    "doses": f"results/patching/{study.model}/doses.csv",
    "resampling": f"results/resampling/{study.model}/effects.csv",
    "resampled": f"results/resampling/{study.model}/examples.zarr.zip",
    "account": f"results/account/{study.model}.csv",
    "complexity": f"results/complexity/{study.model}.csv",
    "references": os.path.relpath(Path(workflow.basedir) / "resources" / "references.yaml"),
}


rule report:
    """The page."""
    input:
        "results/report.html",


rule draw_charts:
    """Draw every chart: as Vega-Lite with its data, and as SVG."""
    input:
        **TABLES,
        datasets=[by_content(store) for store in study.studied_stores()],
        digests=study.digests(study.studied_stores()),
        circuits=study.circuits(),
        attention_first=study.attention(study.datasets[0]),
        attention_second=study.attention(study.datasets[1]),
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
        **TABLES,
        datasets=[by_content(store) for store in study.studied_stores()],
        digests=study.digests(study.studied_stores()),
        circuits=study.circuits(),
        attention_first=study.attention(study.datasets[0]),
        attention_second=study.attention(study.datasets[1]),
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
