// Decoding of interleaved rANS (spec/entropy-coding.md 6): a warp decodes a segment, a lane of it a lane of the stream.
//
//   rans_decode<Lookup, SHARED, CLASSES, Sink>(sequences, segments, count, lookup, tables, bits, alphabet, status)
//
// Lookup    Compact, Wide<u8> or Wide<u16>: the form of `lookup`
// SHARED    `tables` tables are copied to shared memory, 4 * tables * table_size(...) bytes of it; else it takes none
// CLASSES   symbols have the classes of their sequences; else table `base` of a sequence codes all of it
// Sink      a sink of sinks.cuh
// Launch    blocks of a multiple of 32 threads, at most 256, in any number: warps take segments in turn
// status    u32[count], one for each segment, always written
#include "lookups.cuh"
#include "sinks.cuh"

// The words of a block, read ahead: 64 of them are held in the registers of the warp, 32 more are on their way.
class Words {
public:
    u32 position;

    __device__ Words(const u16* words, u32 size, u32 position, u32 lane)
        : position(position), words(words), size(size), lane(lane) {
        const u32 at = (position & ~31u) + lane;
        window = read(at) | read(at + 32) << 16;
        ahead = read(at + 64);
    }

    // Return `state` with the word that is `rank` words further, at most 32, below it; all lanes of the warp take part.
    __device__ u32 append(u32 state, u32 rank) const {
        const u32 at = (position & 31) + rank;
        const u32 both = __shfl_sync(ALL_LANES, window, int(at & 31));
        return __byte_perm(both, state, at & 32 ? 0x5432 : 0x5410);  // the upper or the lower half of both
    }

    // Go on by `number` words, at most 32, the same number in all lanes.
    __device__ void take(u32 number) {
        const u32 before = position;
        position += number;
        if ((before ^ position) & 32) {
            window = window >> 16 | ahead << 16;
            ahead = read((position & ~31u) + 64 + lane);
        }
    }

private:
    const u16* words;
    u32 size, lane, window, ahead;

    __device__ u32 read(u32 at) const { return at < size ? words[at] : 0; }
};

constexpr u32 LEAST_STATE = 1 << 16;

// Decode one symbol in each lane that is `active`; lanes beyond those of the stream do what their likes do, but write
// nothing: they are not `mine`.
template <class Lookup, class Sink, class Where>
__device__ __forceinline__ void decode_row(
    const Lookup& lookup, const Sink& sink, const Sequence& sequence, const Where& where, u32 bits, u32 lanes,
    u32 before, u64 index, bool active, bool mine, u32& state, Words& words
) {
    const Slot slot = lookup.find(where.table(sequence), state & ((1u << bits) - 1));
    if (active) state = slot.count * (state >> bits) + slot.offset;
    const bool renew = active && state < LEAST_STATE;
    const u32 renewing = __ballot_sync(ALL_LANES, renew) & lanes;
    const u32 renewed = words.append(state, __popc(renewing & before));
    if (renew) state = renewed;
    words.take(__popc(renewing));
    if (active && mine) sink.put(index, slot.symbol, where);
}

template <class Lookup, bool CLASSES, class Sink>
__device__ Status decode_segment(const Lookup& lookup, const Sequence& sequence, const Segment& segment, u32 bits) {
    const u32 lane = threadIdx.x % WARP, lanes = segment.lanes, own = lane & (lanes - 1), count = segment.count;
    if (segment.bytes < 4 * lanes || segment.bytes % 2 || misplaced(segment, 2)) return BAD_LENGTH;
    const u16* const data = reinterpret_cast<const u16*>(segment.data);
    const u32 size = segment.bytes / 2 - 2 * lanes;
    u32 state = data[2 * own] | u32(data[2 * own + 1]) << 16;
    if (__ballot_sync(ALL_LANES, state < LEAST_STATE)) return BAD_STATE;
    u32 position = 0;
    if (segment.begin != nullptr) {
        position = segment.begin[0];
        state = segment.begin[1 + own];
        if (__ballot_sync(ALL_LANES, state < LEAST_STATE)) return BAD_STATE;
        if (position > size) return BAD_POINT;
    }

    Words words(data + 2 * lanes, size, position, lane);
    const u32 mask = lanes == WARP ? ALL_LANES : (1u << lanes) - 1, before = (1u << own) - 1;
    const bool mine = lane < lanes;
    const Sink sink(sequence);
    // A lane without any symbol starts at the last one.
    constexpr bool PLACED = CLASSES || Sink::PLACED;
    Place<PLACED> place(sequence, segment.first + (own < count ? own : count - 1), lanes);
    u32 at = own;
    const u32 whole = count / lanes;
#pragma unroll PLACED ? 1 : 4  // with places, several rows at once would take too many registers
    for (u32 row = 0; row < whole; row++) {
        decode_row(lookup, sink, sequence, place, bits, mask, before, segment.first + at, true, mine, state, words);
        at += lanes;
        if (at < count) place.forward();
    }
    if (whole * lanes < count) {
        const bool active = at < count;
        decode_row(lookup, sink, sequence, place, bits, mask, before, segment.first + at, active, mine, state, words);
    }

    if (words.position > size) return TOO_SHORT;
    if (segment.end != nullptr) {
        const bool same = words.position == segment.end[0] && state == segment.end[1 + own];
        return __all_sync(ALL_LANES, same) ? GOOD : WRONG_POINT;
    }
    if (words.position < size) return TOO_LONG;
    return __all_sync(ALL_LANES, state == LEAST_STATE) ? GOOD : WRONG_END;
}

template <class Lookup, bool SHARED, bool CLASSES, class Sink>
__global__ void __launch_bounds__(256, 1) rans_decode(
    const Sequence* __restrict__ sequences, const Segment* __restrict__ segments, u32 count,
    const u32* __restrict__ lookup, u32 tables, u32 bits, u32 alphabet, u32* __restrict__ status
) {
    extern __shared__ u32 shared[];
    const u32* const here = place_lookup<SHARED>(lookup, tables * table_size(Lookup::FORM, bits, alphabet), shared);
    const Lookup symbols(here, bits, alphabet);
    const u32 warps = blockDim.x / WARP;
    for (u32 i = blockIdx.x * warps + threadIdx.x / WARP; i < count; i += gridDim.x * warps) {
        const Segment segment = segments[i];
        const Sequence sequence = sequences[segment.sequence];
        const Status found = decode_segment<Lookup, CLASSES, Sink>(symbols, sequence, segment, bits);
        if (threadIdx.x % WARP == 0) status[i] = found;
    }
}
