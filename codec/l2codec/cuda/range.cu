// The range coder (spec/entropy-coding.md 7): a thread decodes or encodes a block.
//
//   range_decode<CLASSES, Sink>(sequences, segments, count, lookup, bits, alphabet, status)
//   range_encode<CLASSES, Symbol>(sequences, segments, count, lookup, bits, alphabet, sizes, status)
//
// CLASSES, Sink   as in rans_decode.cu
// Symbol          u8 or u16, what `Sequence.words` holds
// lookup          of form INTERVALS
// Launch          blocks of at most 256 threads in any number: threads take segments in turn; no shared memory
// status          u32[count], one for each segment, always written
// sizes           u32[count], the bytes of each block, which begins at `data`, aligned to 4, with room for
//                 4 * (count + 1)
#include "lookups.cuh"
#include "sinks.cuh"

constexpr u32 SCALE_BITS = 24;

// Words that begin at a multiple of 4 bytes; those beyond the end are 0.
struct RangeWords {
    const u32* words;
    u32 size, next;

    __device__ u32 take() {
        const u32 word = next < size ? words[next] : 0;
        next++;
        return word;
    }
};

template <bool CLASSES, class Sink>
__device__ Status decode_block(
    const Sequence& sequence, const Segment& segment, const u32* lookup, u32 bits, u32 alphabet
) {
    if (segment.bytes % 4 || misplaced(segment, 4)) return BAD_LENGTH;
    RangeWords words = {reinterpret_cast<const u32*>(segment.data), segment.bytes / 4, 0};
    u64 range = ~0ull, point = u64(words.take()) << 32;
    point |= words.take();
    const Sink sink(sequence);
    Place<CLASSES || Sink::PLACED> place(sequence, segment.first, 1);
    for (u32 i = 0; i < segment.count; i++) {
        if (i > 0) place.forward();
        const u32* const intervals = lookup + place.table(sequence) * alphabet;
        const u64 scale = range >> SCALE_BITS, unit = scale << (SCALE_BITS - bits);  // of one count
        if (point >= scale << SCALE_BITS) return OUTSIDE;
        // The last symbol that starts at the point or before: found without division.
        u32 symbol = 0, interval = intervals[0];
        for (u32 end = alphabet; end - symbol > 1;) {
            const u32 middle = symbol + (end - symbol) / 2, there = intervals[middle];
            if (unit * (there & 0xffff) <= point) {
                symbol = middle;
                interval = there;
            } else {
                end = middle;
            }
        }
        point -= unit * (interval & 0xffff);
        range = unit * (interval >> 16);
        if (range >> 32 == 0) {
            range <<= 32;
            point = point << 32 | words.take();
        }
        sink.put(segment.first + i, symbol, place);
    }
    // Of `next` words asked for, the last one may be missing.
    if (point >> 33) return WRONG_END;
    if (words.size + 1 < words.next) return TOO_SHORT;
    return words.size > words.next ? TOO_LONG : GOOD;
}

template <bool CLASSES, class Sink>
__global__ void __launch_bounds__(256, 1) range_decode(
    const Sequence* __restrict__ sequences, const Segment* __restrict__ segments, u32 count,
    const u32* __restrict__ lookup, u32 bits, u32 alphabet, u32* __restrict__ status
) {
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        const Segment segment = segments[i];
        status[i] = decode_block<CLASSES, Sink>(sequences[segment.sequence], segment, lookup, bits, alphabet);
    }
}

// Add one to the number that the first `used` words are, most significant first.
__device__ inline void carry(u32* words, u32 used) {
    while (used > 0 && ++words[--used] == 0) {}
}

template <bool CLASSES, class Symbol>
__device__ Status encode_block(
    const Sequence& sequence, const Segment& segment, const u32* lookup, u32 bits, u32 alphabet, u32& size
) {
    const Symbol* const symbols = static_cast<const Symbol*>(sequence.words) + segment.first;
    u32* const words = reinterpret_cast<u32*>(segment.data);
    u64 low = 0, range = ~0ull;
    u32 used = 0;
    size = 0;
    Place<CLASSES> place(sequence, segment.first, 1);
    for (u32 i = 0; i < segment.count; i++) {
        if (i > 0) place.forward();
        const u32 symbol = symbols[i];
        if (symbol >= alphabet) return IMPOSSIBLE_SYMBOL;
        const u32 interval = lookup[place.table(sequence) * alphabet + symbol];
        if (interval >> 16 == 0) return IMPOSSIBLE_SYMBOL;
        const u64 unit = range >> SCALE_BITS << (SCALE_BITS - bits), before = low;
        low += unit * (interval & 0xffff);
        if (low < before) carry(words, used);
        range = unit * (interval >> 16);
        if (range >> 32 == 0) {
            words[used++] = u32(low >> 32);
            low <<= 32;
            range <<= 32;
        }
    }
    u32 last = u32(low >> 32);
    if (u32(low) != 0 && ++last == 0) carry(words, used);
    words[used++] = last;
    size = 4 * used;
    return GOOD;
}

template <bool CLASSES, class Symbol>
__global__ void __launch_bounds__(256, 1) range_encode(
    const Sequence* __restrict__ sequences, const Segment* __restrict__ segments, u32 count,
    const u32* __restrict__ lookup, u32 bits, u32 alphabet, u32* __restrict__ sizes, u32* __restrict__ status
) {
    for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        const Segment segment = segments[i];
        status[i] = encode_block<CLASSES, Symbol>(
            sequences[segment.sequence], segment, lookup, bits, alphabet, sizes[i]);
    }
}
