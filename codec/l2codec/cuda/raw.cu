// Unpacking of symbols of a fixed width (spec/entropy-coding.md 5): a block of threads unpacks a segment.
//
//   raw_decode<Sink>(sequences, segments, count, status)
//
// Sink      as in rans_decode.cu
// segments  a stream may be cut where a byte ends; `lanes` is the width, `bytes` are those of the piece
// Launch    any number of blocks of at most 256 threads: blocks take segments in turn; no shared memory
// status    u32[count], one for each segment, 0 before the launch
#include "sinks.cuh"

template <class Sink>
__global__ void __launch_bounds__(256, 1) raw_decode(
    const Sequence* __restrict__ sequences, const Segment* __restrict__ segments, u32 count, u32* __restrict__ status
) {
    for (u32 number = blockIdx.x; number < count; number += gridDim.x) {
        const Segment segment = segments[number];
        const Sequence sequence = sequences[segment.sequence];
        const u32 width = segment.lanes;
        const u64 size = u64(segment.count) * width;
        if ((size + 7) / 8 != segment.bytes) {
            if (threadIdx.x == 0) status[number] = BAD_LENGTH;
            continue;
        }
        if (threadIdx.x == 0 && size % 8 && segment.data[segment.bytes - 1] >> size % 8) status[number] = BAD_PADDING;
        if (threadIdx.x >= segment.count) continue;
        const Sink sink(sequence);
        Place<Sink::PLACED> place(sequence, segment.first + threadIdx.x, blockDim.x);
        for (u32 i = threadIdx.x; i < segment.count; i += blockDim.x) {
            if (i >= blockDim.x) place.forward();
            const u64 bit = u64(i) * width;
            u32 bits = 0;  // the width of at most 16 bits lies within three bytes
            for (u32 byte = 0; byte < 3; byte++) {
                const u64 at = bit / 8 + byte;
                if (at < segment.bytes) bits |= u32(segment.data[at]) << 8 * byte;
            }
            const u32 symbol = bits >> bit % 8 & ((1u << width) - 1);
            if (symbol < sequence.values) sink.put(segment.first + i, symbol, place);
            else status[number] = NO_VALUE;
        }
    }
}
