// Frequency tables, laid out for looking symbols up (spec/entropy-coding.md 2, 8).
//
//   fill_tables(counts, alphabet, bits, form, lookup)
//
// counts    u16[tables, alphabet], which sum to 2**bits in each table; for PREFIXES all are powers of two or 0
// form      a `Form` of lookups.cuh
// lookup    u32[tables * table_size(form, bits, alphabet)]
// Launch    one block a table, of a multiple of 32 threads, at most 1024; 4 * (2 * threads + 32) bytes of shared memory
#include "lookups.cuh"

// Return the sum of `value` over all threads of the block before this one, and in `total` that over all of them. There
// must be a barrier before the next call.
__device__ inline u32 sum_before(u32 value, u32* sums, u32& total) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    u32 sum = value;
    for (u32 distance = 1; distance < WARP; distance *= 2) {
        const u32 other = __shfl_up_sync(ALL_LANES, sum, distance);
        if (lane >= distance) sum += other;
    }
    if (lane == WARP - 1) sums[warp] = sum;
    __syncthreads();
    u32 before = 0;
    total = 0;
    for (u32 i = 0; i < warps; i++) {
        if (i == warp) before = total;
        total += sums[i];
    }
    return before + sum - value;
}

// Write what a table says of a symbol with the slots [start, start + count), by the lanes of a warp together.
__device__ inline void fill_symbol(u32 form, u32* lookup, u32 bits, u32 symbol, u32 start, u32 count, u32 lane) {
    for (u32 i = lane; i < count; i += WARP) {
        const u32 slot = start + i;
        if (form == COMPACT) lookup[slot] = symbol | i << 8 | (count - 1) << 20;
        if (form == WIDE8) reinterpret_cast<u8*>(lookup)[slot] = u8(symbol);
        if (form == WIDE16) reinterpret_cast<u16*>(lookup)[slot] = u16(symbol);
        if (form == PREFIXES) lookup[slot] = symbol | (bits + 1 - u32(__ffs(int(count)))) << 16;
    }
    if (lane == 0 && (form == WIDE8 || form == WIDE16 || form == INTERVALS))
        lookup[table_size(Form(form), bits, 0) + symbol] = start | count << 16;
}

extern "C" __global__ void __launch_bounds__(1024) fill_tables(
    const u16* __restrict__ counts, u32 alphabet, u32 bits, u32 form, u32* __restrict__ lookup
) {
    extern __shared__ u32 shared[];
    u32* const sums = shared;
    u32* const part_starts = shared + WARP;
    u32* const part_counts = part_starts + blockDim.x;
    counts += u64(blockIdx.x) * alphabet;
    lookup += u64(blockIdx.x) * table_size(Form(form), bits, alphabet);
    u32 start = 0;
    // The code words of a prefix code ascend with their length, then with their symbol; slots with their symbol alone.
    const u32 passes = form == PREFIXES ? bits + 1 : 1;
    for (u32 pass = 0; pass < passes; pass++) {
        for (u32 first = 0; first < alphabet; first += blockDim.x) {
            const u32 symbol = first + threadIdx.x;
            u32 count = symbol < alphabet ? counts[symbol] : 0;
            if (form == PREFIXES && count != 1u << (bits - pass)) count = 0;
            u32 total;
            part_starts[threadIdx.x] = start + sum_before(count, sums, total);
            part_counts[threadIdx.x] = count;
            start += total;
            __syncthreads();
            const u32 part = alphabet - first < blockDim.x ? alphabet - first : blockDim.x;
            for (u32 i = threadIdx.x / WARP; i < part; i += blockDim.x / WARP)
                fill_symbol(form, lookup, bits, first + i, part_starts[i], part_counts[i], threadIdx.x % WARP);
        }
    }
}
