// Encoding of interleaved rANS (spec/entropy-coding.md 6): a warp encodes a block, backwards.
//
//   rans_encode<CLASSES, Symbol>(sequences, segments, count, lookup, bits, alphabet, sizes, status)
//
// CLASSES   as in rans_decode.cu
// Symbol    u8 or u16, what `Sequence.words` holds
// lookup    of form INTERVALS
// Launch    blocks of a multiple of 32 threads, at most 256, in any number: warps take segments in turn; no shared memory
// status    u32[count], one for each segment, always written
// sizes     u32[count], the bytes of each block, which ends at the end of `data`: `bytes` = 4 * lanes + 2 * count of them
//           are enough for every block
#include "lookups.cuh"
#include "place.cuh"

constexpr u32 FIRST_STATE = 1 << 16;

template <bool CLASSES, class Symbol>
__device__ Status encode_block(
    const Sequence& sequence, const Segment& segment, const u32* lookup, u32 bits, u32 alphabet, u32& size
) {
    const u32 lane = threadIdx.x % WARP, lanes = segment.lanes;
    const Symbol* const symbols = static_cast<const Symbol*>(sequence.words) + segment.first;
    u16* const words = reinterpret_cast<u16*>(segment.data);
    u32 first = segment.bytes / 2;  // the words from here on are written
    u32 state = FIRST_STATE;
    const u32 rows = (segment.count + lanes - 1) / lanes;
    u32 at = (rows - 1) * lanes + lane;
    const u32 start = at < segment.count ? at : at - lanes;  // the last symbol of the lane, if it has any
    const bool used = lane < lanes && start < segment.count;
    Place<CLASSES> place(sequence, segment.first + (used ? start : 0), lanes);
    u32 next = lane < lanes && at < segment.count ? symbols[at] : 0;  // read a row before it is needed
    size = 0;
    for (u32 row = rows; row-- > 0; at -= lanes) {
        const bool active = lane < lanes && at < segment.count;
        const u32 symbol = next;
        if (row > 0 && lane < lanes) next = symbols[at - lanes];
        u32 interval = 0;
        if (active && symbol < alphabet) interval = lookup[place.table(sequence) * alphabet + symbol];
        const u32 count = interval >> 16;
        if (__any_sync(ALL_LANES, active && count == 0)) return IMPOSSIBLE_SYMBOL;
        const bool emit = active && state >= u64(count) << (32 - bits);
        const u32 emitting = __ballot_sync(ALL_LANES, emit);
        first -= __popc(emitting);
        if (emit) {
            words[first + __popc(emitting & ((1u << lane) - 1))] = u16(state);
            state >>= 16;
        }
        if (active) {
            const u32 quotient = state / count;
            state = (quotient << bits) + (state - quotient * count) + (interval & 0xffff);
            if (row > 0) place.backward();
        }
    }
    if (lane < lanes) {
        u16* const states = words + first - 2 * lanes;
        states[2 * lane] = u16(state);
        states[2 * lane + 1] = u16(state >> 16);
    }
    size = segment.bytes - 2 * first + 4 * lanes;
    return GOOD;
}

template <bool CLASSES, class Symbol>
__global__ void __launch_bounds__(256, 1) rans_encode(
    const Sequence* __restrict__ sequences, const Segment* __restrict__ segments, u32 count,
    const u32* __restrict__ lookup, u32 bits, u32 alphabet, u32* __restrict__ sizes, u32* __restrict__ status
) {
    const u32 warps = blockDim.x / WARP;
    for (u32 i = blockIdx.x * warps + threadIdx.x / WARP; i < count; i += gridDim.x * warps) {
        const Segment segment = segments[i];
        u32 size;
        const Status found = encode_block<CLASSES, Symbol>(
            sequences[segment.sequence], segment, lookup, bits, alphabet, size);
        if (threadIdx.x % WARP == 0) {
            sizes[i] = size;
            status[i] = found;
        }
    }
}
