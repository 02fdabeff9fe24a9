"""The validated study, its files, and what all rules share."""

from snakemake.io import IOFile

from diffmech.config.load import merge, read_mapping
from diffmech.declared import every_table
from diffmech.errors import ConfigError
from diffmech.heads.files import ATTENTION, LATENTS
from diffmech.heads.paths import ABLATION, CHOSEN, CIRCUIT, PATCHING, REFERENCE, Heads
from diffmech.workflow.named_files import check_named_files
from diffmech.workflow.same import check_same, tell_jobs
from diffmech.workflow.study import GENERATED, GROUPS, REQUESTS, UNSEEN, Study, switch
from diffmech.workflow.together import tell_group

# What a call may ask for beside the settings, with --config: of the rules `provenance` and `pack`, and no setting.
asked = {name: config.get(name) for name in REQUESTS}
try:
    asked["stores"] = switch("stores", asked["stores"])
    if IS_MODULE:  # its `config:` takes the place of config.yaml, over which it is laid here as --configfile is
        config = merge(read_mapping(ROOT / "config.yaml"), config)
    study = Study({name: value for name, value in config.items() if name not in REQUESTS}, ROOT)
    check_named_files(study.config, ROOT)
    (tell_jobs if workflow.exec_mode == ExecMode.DEFAULT else check_same)(ROOT)
except ConfigError as error:
    raise WorkflowError("\n".join(f"config: {line}" for line in str(error).splitlines()))
heads = Heads(study)
tell_group(sys.argv)


# By name; rules take the paths of tables from where these are declared.
tables = {table.name: table for table in every_table()}


def either(names: list[str]) -> str:
    """Return a wildcard pattern that matches the given names and nothing else."""
    return "|".join(re.escape(name) for name in names) or "no-such-name"


def shipped(name: str) -> str:
    """Return a file of resources/ as an input: relative to the working folder, as recorded, or outside of it whole."""
    path = ROOT / "resources" / name
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) or not IS_MODULE else str(path)


def by_content(store: str):
    """Return a data set as an input whose time says nothing: its digest, an input beside it, says whether it changed.
    Other stores are returned as they are."""
    return ancient(store) if study.digests([store]) else store


def settled_data(wildcards) -> list[str]:
    """Add no file, but ask for both data sets, so that whether the job has to run is asked anew once they are made."""
    for dataset in study.collected_datasets:
        checkpoints.prepare_dataset.get(dataset=dataset)
    return []


def settled(wildcards) -> list[str]:
    """Ask for both data sets, and for the history of a denoiser that is trained here.

    The pointer alone may be there from a time when the model of this name was imported; of a job some of whose outputs
    it has no record of, Snakemake does not ask whether the parameters have changed.
    """
    model = getattr(wildcards, "model", None)  # of a job that is of no denoiser, none
    return settled_data(wildcards) + ([tables["history"].at(model=model)] if model in study.trained else [])


def settled_own(wildcards) -> list[str]:
    """Ask for the one data set of a job, or for both where the denoiser is trained on them."""
    if wildcards.model in study.trained:
        return settled(wildcards)
    if wildcards.dataset in study.collected:
        checkpoints.prepare_dataset.get(dataset=wildcards.dataset)
    return []


def settled_weights(wildcards) -> list[str]:
    """Ask for both data sets where the denoiser is trained on them."""
    return settled(wildcards) if wildcards.model in study.trained else []


def settled_groups(wildcards) -> list[str]:
    """Ask for both data sets, and for which of their images belong together."""
    for folder, dataset in study.grouped_folders:
        checkpoints.image_groups.get(folder=folder, dataset=dataset)
    return settled(wildcards)


def batch(wildcards) -> str:
    """Name the job of a cluster that a shard shares with its neighbours of the same block."""
    name = "-".join([wildcards.dataset, wildcards.block, study.batches[wildcards.shard]])
    workflow.parent_groupids[name] = "shards"  # of which the profile says how many share a job: all of one name
    return name


def chosen_references(wildcards) -> str | None:
    """Return the table of chosen reference images, None where no data set has groups."""
    return checkpoints.choose_references.get(model=wildcards.model).output[0] if study.grouped else None


def once_chosen(wildcards, paths: list[str]) -> list[str]:
    """Return `paths` of reference outputs once it is known of which images they are: whether a job has to run again is
    only asked anew of jobs that ask for the checkpoint themselves."""
    chosen_references(wildcards)
    return paths


def record_of(path: str):
    """Return what Snakemake recorded of the job behind a file, None where it has nothing."""
    return workflow.persistence.metadata(IOFile(path))


wildcard_constraints:
    model=either(list(study.config.models)),
    dataset=either(list(study.config.datasets)),
    group=either(list(study.config.ablation.groups)),
    block=r"t\d+-\d+",
    shard=r"s\d+-\d+",


# Of a module they have other names; rules that run nothing are local there, too.
if not IS_MODULE:

    localrules:
        all,
        everything,
        models,
        attention,
        entropy,
        mechanisms,
        ablation,
        circuit,
        windows,
        account,
        planted,
        plan,
        provenance,
        pack,
