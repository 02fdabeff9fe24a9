"""The report page: one file that opens from disk, holds all its data, and asks nothing of any network."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from markupsafe import Markup

from diffmech.artifacts import atomic_path, provenance, read_json
from diffmech.config.load import overlay
from diffmech.config.root import Config
from diffmech.findings import write_findings
from diffmech.machine import duration
from diffmech.report import markup
from diffmech.report.heads import (
    sections,
    sections_account,
    sections_circuit,
    sections_patching,
    sections_resampling,
    sections_results,
    telling,
)
from diffmech.report.heads.artifacts import ReportInputs, read_tables
from diffmech.report.heads.charts import CHAPTERS, of_measures
from diffmech.report.heads.context import Context
from diffmech.report.heads.evidence import with_evidence
from diffmech.report.heads.findings import findings
from diffmech.report.markup import Section
from diffmech.report.page import assemble
from diffmech.report.wording import number

MADE_HERE = ("train", "untrained", "planted")  # sources whose weights the workflow itself makes
AFTER_DIVERGENCE, AFTER_ABLATION = 1, 3  # where the answers on telling and on circuits stand among the others
CONTENTS = {
    "answers": "What was found",
    "account": "Each mechanism",
    "run": "What was run",
    "domains": "The two domains",
    "denoiser": "The denoiser",
    "entropy": "How widely heads look",
    "divergence": "Telling domains apart",
    "telling": "What telling does",
    "mechanisms": "What heads do together",
    "ablation": "Whether it matters",
    "windows": "When it matters",
    "patching": "What heads carry",
    "resampling": "Whole images",
    "circuit": "The circuit",
    "complexity": "Circuit size",
    "published": "Published figures",
    "settings": "Settings, how to repeat",
}


def write_report(
    inputs: ReportInputs, charts: Sequence[str], output: Path | str, findings_file: Path | str, *, config: Config
) -> None:
    """Write the page and the file of its findings. `charts` are the Vega-Lite files; `config` is the study.

    Raises StoreError for an artifact that is missing or not whole.
    """
    tables = read_tables(inputs)
    context = Context(
        inputs, tables, config, {Path(path).name.removesuffix(".vl.json"): read_json(path) for path in charts}
    )
    found = findings(tables, config)
    found.insert(AFTER_ABLATION, sections_circuit.circuit_finding(tables, config))
    told = telling.telling_finding(tables)
    if told is not None:
        found.insert(AFTER_DIVERGENCE, told)
    by_section = {finding.section: finding for finding in found}
    lead = (
        f"Study “{config.study.name}”: {len(tables.heads)} attention heads of one denoiser on {tables.domains[0]} and "
        f"{tables.domains[1]} images, head by head and timestep by timestep, with intervals, nulls and controls."
    )
    parts = [
        sections.answers(context, found),
        sections_account.account(context),
        sections.what_was_run(context),
        sections.domains(context),
        sections.denoiser(context),
        sections_results.entropy(context),
        sections_results.divergence(context, by_section["divergence"]),
        *([telling.section(context, told)] if told is not None else []),
        sections_results.mechanisms(context, by_section["mechanisms"]),
        sections_results.ablation(context, by_section["ablation"]),
        sections_patching.windows(context),
        sections_patching.patching(context),
        sections_resampling.resampling(context),
        sections_circuit.circuit(context, by_section["circuit"]),
        sections_results.complexity(context, by_section["complexity"]),
        sections_results.published(context),
        settings(context),
    ]
    parts = [with_measures(part, context) for part in parts]
    write_findings([with_evidence(finding, tables, config) for finding in found], findings_file)
    with atomic_path(output) as temporary:
        temporary.write_text(assemble(config.report.title, lead, CONTENTS, parts), encoding="utf-8")


def with_measures(section: Section, context: Context) -> Section:
    """Return a section with the charts at its end that measures declare for its chapter."""
    added = [context.chart(chart.name) for chart in of_measures() if CHAPTERS[chart.chapter] == section.anchor]
    return replace(section, parts=(*section.parts, *added))


def settings(context: Context) -> markup.Section:
    """Return the full settings, versions, seeds, durations, and how to repeat and cite the study."""
    config = context.config
    text = yaml.safe_dump(overlay(config), sort_keys=False, allow_unicode=True, width=100)
    versions = json.loads(provenance())["versions"]
    model_versions = _versions(context.tables.model.get("provenance"))
    seeds = {
        "Statistics": str(config.study.seed),
        "Noise": str(config.latents.seed),
        "Clusters": str(config.mechanisms.seed),
        **({"Gallery": str(config.sampling.seed)} if config.model.source != "pipeline" else {}),
        **({"Training": str(config.model.training.seed)} if config.model.source == "train" else {}),
        "Untrained copies": f"0 to {config.untrained.seeds - 1}",
    }
    repeat = (
        "Put the settings below in a file, e.g. study.yaml, in a clone of the project, and run: "
        "snakemake --cores 2 --configfile study.yaml"
    )
    cite = (
        f"To cite: diffmech {versions['diffmech']}, study {config.study.name}, weights SHA-256 "
        f"{context.tables.model['sha256']}; and the papers named under “Beside published figures” for their figures."
    )
    return markup.section(
        "settings",
        "Settings, versions, and how to repeat this",
        markup.paragraph(repeat),
        markup.paragraph(cite),
        markup.heading("Seeds"),
        markup.facts(seeds),
        markup.heading("Versions"),
        markup.facts({**versions, **({made_or_read(config.model.source): model_versions} if model_versions else {})}),
        markup.heading("Durations"),
        durations(context.inputs.benchmarks),
        markup.folded("All settings", markup.preformatted(text)),
    )


def made_or_read(source: str) -> str:
    """Return what the versions beside a denoiser are those of: what made it, or what only read it."""
    return f"the denoiser was {'made' if source in MADE_HERE else 'imported'} with"


def _versions(made: Any) -> str:
    found = made.get("versions", {}) if isinstance(made, dict) else {}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def durations(folder: str | None) -> Markup:
    """Return how long each step of the workflow took, from Snakemake's benchmark files."""
    rows = []
    for rule in sorted(p for p in Path(folder).iterdir()) if folder and Path(folder).is_dir() else []:
        files = [rule] if rule.suffix == ".tsv" else sorted(rule.rglob("*.tsv"))
        frames = [frame for file in files if not (frame := pd.read_csv(file, sep="\t")).empty]
        if frames:
            seconds = sum(float(frame["s"].iloc[-1]) for frame in frames)
            memory = pd.to_numeric(pd.concat(frames)["max_rss"], errors="coerce").max()
            rows.append([rule.stem, str(len(frames)), duration(seconds), f"{number(float(memory), 3)} MB"])
    if not rows:
        return markup.paragraph("No durations were recorded.")
    columns = ["step", "jobs", "time, all jobs", "most memory of a job"]
    return markup.table(columns, rows, "Time and memory of the steps, as measured by Snakemake", columns[1:])
