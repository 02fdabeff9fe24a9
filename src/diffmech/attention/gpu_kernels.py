"""The three GPU kernels behind `attention.gpu`, in Triton, which is imported here: where it is missing, so is this.

`pairs` sees each score once. A program holds a block of keys and streams the queries of one chunk past it, so that
p_ij = exp(s_ij - lse_i), with the lse that attention itself has found, is final at once, and sum_i p_ij and its moments
sum_i p_ij [x_i, |x_i|^2] stay in registers: three operations a score, where |x_i - x_j|^2 itself takes five. `rows`
has what belongs to single queries, and `finish` adds up in a fixed order what programs left: no atomics, so that equal
inputs give equal bytes.

Tokens are cut at the first and the last of the image, so that no block of keys or chunk of queries is of two parts.
Products are those of the inputs' type and all sums are float32. Names are those of `attention.sums`.
"""

from typing import no_type_check

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# As the lse of a query that is none: p is 0, and so is p ln p.
NOWHERE = tl.constexpr(1e30)

# Numbers of tokens are as many as there are sites: one compiled kernel serves them all.
COUNTS = (
    "heads",
    "queries",
    "keys",
    "query_first",
    "query_last",
    "key_first",
    "key_last",
    "blocks",
    "chunks",
    "pieces",
)


@triton.jit
@no_type_check
def span(index, first, last, total, length):
    """Return the first token and the end of a piece of at most `length` tokens, and whether these are the image's."""
    before = tl.cdiv(first, length)
    after = before + tl.cdiv(last - first, length)
    is_image = (index >= before) & (index < after)
    start = tl.where(is_image, first + (index - before) * length, last + (index - after) * length)
    start = tl.where(index < before, index * length, start)
    end = tl.where(is_image, last, tl.where(index < before, first, total))
    return start, tl.minimum(start + length, end), is_image


@triton.jit
@no_type_check
def channels_of(
    pointer, tokens, live, stride, channel_stride,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, WHOLE: tl.constexpr = False,
):  # fmt: skip
    """Return (token, channel) of WIDTH channels from FIRST on, zero beyond CHANNELS and where a token is not live.

    WHOLE says that all are.
    """
    channel = FIRST + tl.arange(0, WIDTH)
    at = pointer + tokens[:, None] * stride + channel[None, :] * channel_stride
    if WHOLE:
        if FIRST + WIDTH <= CHANNELS:
            return tl.load(at)
        return tl.load(at, (channel < CHANNELS)[None, :], 0.0)
    if FIRST + WIDTH <= CHANNELS:
        return tl.load(at, live[:, None], 0.0)
    return tl.load(at, live[:, None] & (channel < CHANNELS)[None, :], 0.0)


@triton.jit(do_not_specialize=[*COUNTS])
@no_type_check
def pairs(
    query, key, lse, places, received, sums, masses,
    query_sample, query_head, query_token, query_channel, key_sample, key_head, key_token, key_channel, lse_sample,
    lse_head, places_stride, scale, heads, queries, keys, query_first, query_last, key_first, key_last, blocks,
    chunks, chunk_length,
    CHANNELS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr,
    PLACED: tl.constexpr, JOINT: tl.constexpr, ALIGNED: tl.constexpr, UNIT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum over one chunk of queries and one block of keys of one head.

    places: (3, image token), y, x and y^2 + x^2, up to a multiple of QUERIES. received: (row, chunk, key), sum_i p_ij.
    sums: (row, 2, chunk and block), -sum p ln p and sum p |x_i - x_j|^2. masses: (row, block, query), sum_j p_ij, of
    joint attention. ALIGNED says that parts begin at multiples of 16 queries. Strides of query
    and key count UNIT numbers, so that it is known what they are multiples of.
    """
    row = (tl.program_id(0) // (blocks * chunks)).to(tl.int64)
    within = tl.program_id(0) % (blocks * chunks)
    chunk, block = within // blocks, within % blocks
    sample, head = row // heads, row % heads
    query += (sample * query_sample + head * query_head) * UNIT
    query_token *= UNIT
    key += (sample * key_sample + head * key_head) * UNIT
    key_token *= UNIT
    lse += sample * lse_sample + head * lse_head

    start, end, asks = span(chunk, query_first, query_last, queries, chunk_length)
    first, last, asked = span(block, key_first, key_last, keys, KEYS)
    j = first + tl.arange(0, KEYS)
    is_key = j < last
    k = channels_of(key, j, is_key, key_token, key_channel, 0, MAIN, CHANNELS)
    k_rest = k
    if REST:
        k_rest = channels_of(key, j, is_key, key_token, key_channel, MAIN, REST, CHANNELS)

    mass = tl.zeros([KEYS], tl.float32)
    plogp, down, across, square = mass, mass, mass, mass
    masses += (row * blocks + block) * queries
    if ALIGNED:  # loads of several numbers at a time
        start = tl.multiple_of(start, 16)
    # Queries that are not the image's are given the first places, and `finish` takes no notice.
    token = start - query_first
    whole = (end - start) // QUERIES * QUERIES
    for at in range(0, whole, QUERIES):
        place = tl.multiple_of(tl.where(asks, token + at, 0), QUERIES)
        mass, plogp, down, across, square = step(
            k, k_rest, is_key, query, lse, masses, places + place, places_stride, query_token, query_channel,
            scale, start + at, end, mass, plogp, down, across, square,
            CHANNELS, MAIN, REST, QUERIES, PLACED, JOINT, PRECISION, True,
        )  # fmt: skip
    if start + whole < end:
        place = tl.multiple_of(tl.where(asks, token + whole, 0), QUERIES)
        mass, plogp, down, across, square = step(
            k, k_rest, is_key, query, lse, masses, places + place, places_stride, query_token, query_channel,
            scale, start + whole, end, mass, plogp, down, across, square,
            CHANNELS, MAIN, REST, QUERIES, PLACED, JOINT, PRECISION, False,
        )  # fmt: skip

    tl.store(received + (row * chunks + chunk) * keys + j, mass, is_key)
    sums += row * 2 * chunks * blocks + within
    tl.store(sums, -LN_2 * tl.sum(tl.where(is_key, plogp, 0.0), 0))
    if PLACED:
        placed = is_key & asked
        y, x, r = place_of(places, places_stride, j - key_first, placed)
        square += mass * r - 2 * (y * down + x * across)
        tl.store(sums + chunks * blocks, tl.sum(tl.where(placed, square, 0.0), 0))


@triton.jit
@no_type_check
def step(
    k, k_rest, is_key, query, lse, masses, place, places_stride, query_token, query_channel, scale, at, end,
    mass, plogp, down, across, square,
    CHANNELS: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, QUERIES: tl.constexpr, PLACED: tl.constexpr,
    JOINT: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Return the sums of each key with those of QUERIES queries added, which are all there where WHOLE."""
    i = at + tl.arange(0, QUERIES)
    is_query = i < end
    q = channels_of(query, i, is_query, query_token, query_channel, 0, MAIN, CHANNELS, WHOLE)
    scores = tl.dot(k, tl.trans(q), input_precision=PRECISION)
    if REST:
        q_rest = channels_of(query, i, is_query, query_token, query_channel, MAIN, REST, CHANNELS, WHOLE)
        scores = tl.dot(k_rest, tl.trans(q_rest), scores, input_precision=PRECISION)
    offset = tl.load(lse + i) if WHOLE else tl.load(lse + i, is_query, NOWHERE)
    log2_p = scores * (scale * LOG2_E) - (offset * LOG2_E)[None, :]
    p = tl.exp2(log2_p)
    mass += tl.sum(p, 1)
    plogp += tl.sum(p * log2_p, 1)
    if PLACED:
        y, x, r = place_of(place, places_stride, tl.arange(0, QUERIES), True)
        down += tl.sum(p * y[None, :], 1)
        across += tl.sum(p * x[None, :], 1)
        square += tl.sum(p * r[None, :], 1)
    if JOINT:
        tl.store(masses + i, tl.sum(tl.where(is_key[:, None], p, 0.0), 0), is_query)
    return mass, plogp, down, across, square


@triton.jit
@no_type_check
def place_of(places, stride, token, live):
    """Return y, x and y^2 + x^2 of tokens."""
    y = tl.load(places + token, live, 0.0)
    x = tl.load(places + stride + token, live, 0.0)
    return y, x, tl.load(places + 2 * stride + token, live, 0.0)


@triton.jit(do_not_specialize=[*COUNTS, "height", "width"])
@no_type_check
def rows(
    query, key, lse, output, masses, found, output_sums,
    query_sample, query_head, query_token, query_channel, key_sample, key_head, key_token, key_channel, lse_sample,
    lse_head, output_sample, output_head, output_token, output_channel,
    scale, heads, queries, keys, query_first, query_last, key_first, key_last, blocks, pieces, block_length, height,
    width,
    CHANNELS: tl.constexpr, PADDED: tl.constexpr, OUTPUT: tl.constexpr, OUTPUT_PADDED: tl.constexpr,
    QUERIES: tl.constexpr, PLACED: tl.constexpr, JOINT: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Sum what belongs to single queries, of one piece of those of one head.

    found: (row, 6, piece), p at the own, the near and the mirrored position, the squares of the output, and
    m_i ln m_i with m_i the mass on image keys and on the others. output_sums: (row, piece, output channel).
    Strides of query, key and output count UNIT numbers.
    """
    row = (tl.program_id(0) // pieces).to(tl.int64)
    piece = tl.program_id(0) % pieces
    sample, head = row // heads, row % heads
    query += (sample * query_sample + head * query_head) * UNIT
    query_token *= UNIT
    key += (sample * key_sample + head * key_head) * UNIT
    key_token *= UNIT
    lse += sample * lse_sample + head * lse_head
    output += (sample * output_sample + head * output_head) * UNIT
    output_token *= UNIT
    found += row * 6 * pieces + piece
    start, end, of_image = span(piece, query_first, query_last, queries, QUERIES)
    i = start + tl.arange(0, QUERIES)
    is_query = i < end

    if PLACED:
        seen = is_query & of_image
        q = channels_of(query, i, seen, query_token, query_channel, 0, PADDED, CHANNELS).to(tl.float32)
        offset = tl.load(lse + i, seen, NOWHERE) * LOG2_E
        token = i - query_first
        y, x = (token // width) % height, token % width
        own = tl.zeros([QUERIES], tl.float32)
        near = tl.zeros([QUERIES], tl.float32)
        for neighbour in tl.static_range(10):
            if neighbour < 9:
                down = neighbour // 3 - 1
                across = neighbour % 3 - 1
                there = seen & (y + down >= 0) & (y + down < height) & (x + across >= 0) & (x + across < width)
                j = key_first + token + down * width + across
            else:
                there = seen
                j = key_first + token + width - 1 - 2 * x
            k = channels_of(key, j, there, key_token, key_channel, 0, PADDED, CHANNELS).to(tl.float32)
            log2_p = tl.sum(q * k, 1) * (scale * LOG2_E) - offset
            p = tl.where(there, tl.exp2(log2_p), 0.0)
            if neighbour < 9:
                near += p
            if neighbour == 4:
                own = p
            if neighbour == 9:
                tl.store(found + 2 * pieces, tl.sum(p, 0))
        tl.store(found, tl.sum(own, 0))
        tl.store(found + pieces, tl.sum(near, 0))

    shown = channels_of(output, i, is_query & of_image, output_token, output_channel, 0, OUTPUT_PADDED, OUTPUT)
    shown = shown.to(tl.float32)
    channel = tl.arange(0, OUTPUT_PADDED)
    tl.store(output_sums + (row * pieces + piece) * OUTPUT + channel, tl.sum(shown, 0), channel < OUTPUT)
    tl.store(found + 3 * pieces, tl.sum(tl.sum(shown * shown, 1), 0))

    if JOINT:
        on_image = tl.zeros([QUERIES], tl.float32)
        on_rest = tl.zeros([QUERIES], tl.float32)
        for block in range(0, blocks):
            mass = tl.load(masses + (row * blocks + block) * queries + i, is_query, 0.0)
            _, _, key_of_image = span(block, key_first, key_last, keys, block_length)
            on_image += tl.where(key_of_image, mass, 0.0)
            on_rest += tl.where(key_of_image, 0.0, mass)
        tl.store(found + 4 * pieces, tl.sum(xlogx(on_image), 0))
        tl.store(found + 5 * pieces, tl.sum(xlogx(on_rest), 0))


@triton.jit
@no_type_check
def xlogx(x):
    """Return x ln x, 0 at 0."""
    return tl.where(x == 0, 0.0, x * tl.log(x))


@triton.jit
@no_type_check
def not_below_zero(x):
    """Return max(x, 0), where x is no number x itself."""
    return tl.where(x < 0, 0.0, x)


@triton.jit(do_not_specialize=[*COUNTS, "all_rows"])
@no_type_check
def finish(
    received, sums, found, output_sums, share_out, rest_out, scalars, parts, output_mean,
    all_rows, queries, keys, query_first, query_last, key_first, key_last, blocks, chunks, pieces,
    block_length, chunk_length, piece_length,
    OUTPUT: tl.constexpr, OUTPUT_PADDED: tl.constexpr, JOINT: tl.constexpr, ASKING: tl.constexpr,
):  # fmt: skip
    """Turn the sums of one head into averages, as `statistics._statistics` does.

    scalars: (7, row), entropy, position information, output norm, distance, self, neighbourhood and mirror mass.
    parts: (2, row, part), mass and entropy. share_out and rest_out: (row, key), what keys receive from the image and
    from ASKING others, times uniform. output_mean: (row, output channel).
    """
    row = tl.program_id(0).to(tl.int64)
    images = query_last - query_first
    others = queries - images

    # Of chunks by blocks: which are image->image, image->rest, rest->image and rest->rest, in this order.
    entropy_0, entropy_1, entropy_2, entropy_3, square = 0.0, 0.0, 0.0, 0.0, 0.0
    for at in range(0, chunks * blocks, 256):
        index = at + tl.arange(0, 256)
        live = index < chunks * blocks
        value = tl.load(sums + row * 2 * chunks * blocks + index, live, 0.0)
        squared = tl.load(sums + (row * 2 + 1) * chunks * blocks + index, live, 0.0)
        if JOINT:
            _, _, asks = span(index // blocks, query_first, query_last, queries, chunk_length)
            _, _, asked = span(index % blocks, key_first, key_last, keys, block_length)
            entropy_0 += tl.sum(tl.where(asks & asked, value, 0.0), 0)
            entropy_1 += tl.sum(tl.where(asks & (asked == 0), value, 0.0), 0)
            entropy_2 += tl.sum(tl.where((asks == 0) & asked, value, 0.0), 0)
            entropy_3 += tl.sum(tl.where((asks == 0) & (asked == 0), value, 0.0), 0)
            square += tl.sum(tl.where(asks & asked, squared, 0.0), 0)
        else:
            entropy_0 += tl.sum(value, 0)
            square += tl.sum(squared, 0)
    entropy = not_below_zero(entropy_0 + entropy_1) / images

    information, mass_0, mass_1, mass_2, mass_3 = 0.0, 0.0, 0.0, 0.0, 0.0
    for at in range(0, keys, 512):
        j = at + tl.arange(0, 512)
        is_key = j < keys
        from_image = tl.zeros([512], tl.float32)
        from_rest = tl.zeros([512], tl.float32)
        for first in range(0, chunks, 8):
            chunk = first + tl.arange(0, 8)
            live = (chunk < chunks)[:, None] & is_key[None, :]
            value = tl.load(received + (row * chunks + chunk[:, None]) * keys + j[None, :], live, 0.0)
            if JOINT:
                _, _, asks = span(chunk, query_first, query_last, queries, chunk_length)
                from_image += tl.sum(tl.where(asks[:, None], value, 0.0), 0)
                from_rest += tl.sum(tl.where(asks[:, None], 0.0, value), 0)
            else:
                from_image += tl.sum(value, 0)
        share = from_image / images
        information -= tl.sum(xlogx(share), 0)
        tl.store(share_out + row * keys + j, share * keys, is_key)
        if ASKING:
            tl.store(rest_out + row * keys + j, from_rest * keys / others, is_key)
        if JOINT:
            asked = (j >= key_first) & (j < key_last)
            mass_0 += tl.sum(tl.where(asked, from_image, 0.0), 0)
            mass_1 += tl.sum(tl.where(asked, 0.0, from_image), 0)
            mass_2 += tl.sum(tl.where(asked, from_rest, 0.0), 0)
            mass_3 += tl.sum(tl.where(asked, 0.0, from_rest), 0)

    mean = tl.zeros([OUTPUT_PADDED], tl.float32)
    own, near, mirror, norm, log_0, log_1, log_2, log_3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    found += row * 6 * pieces
    channel = tl.arange(0, OUTPUT_PADDED)
    for at in range(0, pieces, 32):
        piece = at + tl.arange(0, 32)
        live = piece < pieces
        own += tl.sum(tl.load(found + piece, live, 0.0), 0)
        near += tl.sum(tl.load(found + pieces + piece, live, 0.0), 0)
        mirror += tl.sum(tl.load(found + 2 * pieces + piece, live, 0.0), 0)
        norm += tl.sum(tl.load(found + 3 * pieces + piece, live, 0.0), 0)
        if JOINT:
            _, _, asks = span(piece, query_first, query_last, queries, piece_length)
            on_image = tl.load(found + 4 * pieces + piece, live, 0.0)
            on_rest = tl.load(found + 5 * pieces + piece, live, 0.0)
            log_0 += tl.sum(tl.where(asks, on_image, 0.0), 0)
            log_1 += tl.sum(tl.where(asks, on_rest, 0.0), 0)
            log_2 += tl.sum(tl.where(asks, 0.0, on_image), 0)
            log_3 += tl.sum(tl.where(asks, 0.0, on_rest), 0)
        of = live[:, None] & (channel < OUTPUT)[None, :]
        mean += tl.sum(tl.load(output_sums + (row * pieces + piece[:, None]) * OUTPUT + channel[None, :], of, 0.0), 0)
    tl.store(output_mean + row * OUTPUT + channel, mean / images, channel < OUTPUT)

    # Beside other keys, those of the image get a part of the mass only.
    tiny = 1.1754943508222875e-38
    weight = images.to(tl.float32)
    if JOINT:
        weight = tl.where(mass_0 < tiny, tiny, mass_0)
    tl.store(scalars + row, entropy)
    tl.store(scalars + all_rows + row, information - entropy)
    tl.store(scalars + 2 * all_rows + row, tl.sqrt(norm / images))
    tl.store(scalars + 3 * all_rows + row, tl.sqrt(not_below_zero(square / weight)))
    tl.store(scalars + 4 * all_rows + row, own / images)
    tl.store(scalars + 5 * all_rows + row, near / images)
    tl.store(scalars + 6 * all_rows + row, mirror / images)
    if JOINT:
        store_part(parts, row, all_rows, 0, ASKING, mass_0, entropy_0 + log_0, images)
        store_part(parts, row, all_rows, 1, ASKING, mass_1, entropy_1 + log_1, images)
        if ASKING:
            store_part(parts, row, all_rows, 2, ASKING, mass_2, entropy_2 + log_2, others)
            store_part(parts, row, all_rows, 3, ASKING, mass_3, entropy_3 + log_3, others)


@triton.jit
@no_type_check
def store_part(parts, row, all_rows, part: tl.constexpr, ASKING: tl.constexpr, mass, entropy, count):
    """Store the mass of a part and its entropy, renormalised within the part."""
    PARTS: tl.constexpr = 4 if ASKING else 2
    tiny = 1.1754943508222875e-38
    tl.store(parts + row * PARTS + part, mass / count)
    spread = not_below_zero(entropy / tl.where(mass < tiny, tiny, mass))
    tl.store(parts + (all_rows + row) * PARTS + part, spread)
