// Prefix codes (spec/entropy-coding.md 8): a thread decodes or encodes a block.
//
//   huffman_decode<CLASSES, Sink>(sequences, segments, count, lookup, bits, status)
//   huffman_encode<CLASSES, Symbol>(sequences, segments, count, lookup, alphabet, sizes, status)
//
// CLASSES, Sink   as in rans_decode.cu
// Symbol          u8 or u16, what `Sequence.words` holds
// lookup          of form PREFIXES; for encoding u32[tables, alphabet] = code word | length << 16, 2**31 where there is
//                 none
// Launch          blocks of at most 256 threads in any number: threads take segments in turn; no shared memory
// status          u32[count], one for each segment, always written
// sizes           u32[count], the bytes of each block, which begins at `data`, with room for as many as can be
#include "lookups.cuh"
#include "sinks.cuh"

template <bool CLASSES, class Sink>
__device__ Status decode_block(const Sequence& sequence, const Segment& segment, const u32* lookup, u32 bits) {
    const Sink sink(sequence);
    Place<CLASSES || Sink::PLACED> place(sequence, segment.first, 1);
    // The bits held are the upper ones of `held`; below them and beyond the block there are zeros.
    u64 held = 0;
    u32 held_bits = 0, next = 0;
    const u64 size = 8 * u64(segment.bytes);
    u64 used = 0;
    for (u32 i = 0; i < segment.count; i++) {
        if (i > 0) place.forward();
        while (held_bits < bits) {
            const u64 byte = next < segment.bytes ? segment.data[next] : 0;
            held |= byte << (56 - held_bits);
            held_bits += 8;
            next++;
        }
        const u32 entry = lookup[place.table(sequence) << bits | u32(held >> (64 - bits))];
        const u32 length = entry >> 16;
        used += length;
        if (used > size) return TOO_SHORT;
        held <<= length;
        held_bits -= length;
        sink.put(segment.first + i, entry & 0xffff, place);
    }
    if ((used + 7) / 8 != segment.bytes) return TOO_LONG;
    const bool clean = used % 8 == 0 || (segment.data[segment.bytes - 1] & 0xff >> used % 8) == 0;
    return clean ? GOOD : BAD_PADDING;
}

template <bool CLASSES, class Sink>
__global__ void __launch_bounds__(256, 1) huffman_decode(
    const Sequence* __restrict__ sequences, const Segment* __restrict__ segments, u32 count,
    const u32* __restrict__ lookup, u32 bits, u32* __restrict__ status
) {
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        const Segment segment = segments[i];
        status[i] = decode_block<CLASSES, Sink>(sequences[segment.sequence], segment, lookup, bits);
    }
}

template <bool CLASSES, class Symbol>
__device__ Status encode_block(
    const Sequence& sequence, const Segment& segment, const u32* lookup, u32 alphabet, u32& size
) {
    const Symbol* const symbols = static_cast<const Symbol*>(sequence.words) + segment.first;
    Place<CLASSES> place(sequence, segment.first, 1);
    u64 held = 0;  // the lower bits of it are still to be written
    u32 held_bits = 0, used = 0;
    size = 0;
    for (u32 i = 0; i < segment.count; i++) {
        if (i > 0) place.forward();
        const u32 symbol = symbols[i];
        if (symbol >= alphabet) return IMPOSSIBLE_SYMBOL;
        const u32 entry = lookup[place.table(sequence) * alphabet + symbol], length = entry >> 16;
        if (length >> 15) return IMPOSSIBLE_SYMBOL;
        held = held << length | (entry & 0xffff);
        held_bits += length;
        while (held_bits >= 8) {
            held_bits -= 8;
            segment.data[used++] = u8(held >> held_bits);
        }
    }
    if (held_bits > 0) segment.data[used++] = u8(held << (8 - held_bits));
    size = used;
    return GOOD;
}

template <bool CLASSES, class Symbol>
__global__ void __launch_bounds__(256, 1) huffman_encode(
    const Sequence* __restrict__ sequences, const Segment* __restrict__ segments, u32 count,
    const u32* __restrict__ lookup, u32 alphabet, u32* __restrict__ sizes, u32* __restrict__ status
) {
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        const Segment segment = segments[i];
        status[i] = encode_block<CLASSES, Symbol>(sequences[segment.sequence], segment, lookup, alphabet, sizes[i]);
    }
}
