"""How the table of the history of a training is declared, by whoever trains."""

from diffmech.tables import Column, Table, number, whole


def history_table(name: str, path: str, about: str, *, source: str, **parts: Column) -> Table:
    """Return the declaration of a history; `parts` are what the loss is made of, `source` is where the loss is from."""
    return Table(
        name=name,
        path=path,
        row="some steps of the training",
        about=about,
        columns={
            "step": whole("steps of the optimiser so far"),
            "loss": number("mean training loss since the row before", "1", source),
            **parts,
            "learning_rate": number("learning rate of the step"),
            "seconds": number("time spent on training so far", "s"),
        },
    )
