"""The table of what a judge sees in generated images."""

from diffmech.tables import Table, interval, number, text, whole

RECOGNITION = Table(
    name="recognition",
    path="results/models/{model}/recognition.csv",
    row="an attribute, asked for or excluded",
    about="Whether generated images show the attributes that were asked for, by a classifier trained for this.",
    columns={
        "attribute": text("attribute that was asked for; with 'no ' before it, excluded"),
        "heldout_accuracy": number("share of drawn images kept out of its training that the classifier gets right"),
        "recognised_share": number("share of generated images in which the classifier agrees with what was asked"),
        **interval("that share", how="score interval"),
        "n": whole("generated images"),
    },
)
