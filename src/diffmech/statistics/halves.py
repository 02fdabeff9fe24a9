"""Which half an image belongs to: that on which clusters of heads are found, or that on which they are tested. Ours.

What is chosen on images and tested on the same images is found too often: a cluster is a choice among heads by what
their attention did on these images, chance included. So phases and clusters come from one half, and all that is said of
them from the other: names, the evidence for these, and what becomes of images without their heads.

The first images are always of the half that tests, since heads are removed, patched or attributed on them, untrained
copies see them, or they give the outputs that replace those of a head. As many images after them find clusters; from
there on one of each two does, numbers 2 k and 2 k + 1, by the Thue-Morse sequence, which no period in the order of the
images (prompts that take turns) can follow. So the halves are equal where there are at least twice as many images as
are tested in any case, fewer images find where there are not, and an image keeps its half when more images follow.
Groups of images (of one person, say) are divided in place of images, in the order of their first image: all members of
a group are of one half.
"""

from collections.abc import Hashable, Sequence

# With one image there is no resampling, and nothing that could depend on it.
FEWEST = 2


def finding(samples: Sequence[int], tested: int, groups: Sequence[Hashable] | None = None) -> list[bool]:
    """Return of each image whether it is of the half on which clusters are found.

    `samples` are numbers of images, in any order; those below `tested` test in any case, and so does each group that
    holds one. `groups` names the group of each of `samples`; without it, each image is its own.
    """
    numbers: Sequence[int] = samples
    if groups is not None:
        by_sample = sorted(zip(samples, groups, strict=True), key=lambda pair: pair[0])
        order = {group: place for place, group in enumerate(dict.fromkeys(group for _, group in by_sample))}
        numbers = [order[group] for group in groups]
        tested = len({group for sample, group in by_sample if sample < tested})
    return [number >= tested and (number < 2 * tested or number.bit_count() % 2 == 1) for number in numbers]
