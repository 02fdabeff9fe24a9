"""The tables about images: which belong together, and which serve as references."""

from diffmech.tables import Table, text, whole

DOMAIN = text("domain of the study")
SAMPLE = whole("number of the image in its data set, as in every store", "")

GROUPS = Table(
    name="groups",
    path="results/{folder}/{dataset}.groups.csv",
    row="an image of a data set",
    about="Which images belong together (one person, patient, scene) and so count once in every statistic.",
    columns={"sample": SAMPLE, "group": text("name of the group of the image")},
)

REFERENCES = Table(
    name="chosen_references",
    path="results/ablation/{model}/references.csv",
    row="a reference image, where data sets have groups",
    about="The images whose mean replaces what heads write, of groups that are not studied.",
    columns={"domain": DOMAIN, "sample": SAMPLE},
)
