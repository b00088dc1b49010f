// The forms in which a kernel looks symbols up, each of `u32` table after table. `tables.cu` makes them of counts.
#pragma once
#include "common.cuh"

// The symbol of a slot, its count, and how far into its counts the slot lies (spec/entropy-coding.md 6).
struct Slot {
    u32 symbol, count, offset;
};

enum Form : u32 {
    COMPACT,    // u32[2**P] = symbol | (slot - start) << 8 | (count - 1) << 20; A <= 256, P <= 12
    WIDE8,      // u8[2**P] symbols, then u32[A] = start | count << 16; A <= 256
    WIDE16,     // u16[2**P] symbols, then u32[A] = start | count << 16
    INTERVALS,  // u32[A] = start | count << 16
    PREFIXES,   // u32[2**P] = symbol | length << 16, by the next P bits of a prefix code
};

// Return how many u32 a table takes up.
__host__ __device__ constexpr u32 table_size(Form form, u32 bits, u32 alphabet) {
    return form == INTERVALS ? alphabet
         : form == WIDE8     ? (1u << bits) / 4 + alphabet
         : form == WIDE16    ? (1u << bits) / 2 + alphabet
                             : 1u << bits;
}

class Compact {
public:
    static constexpr Form FORM = COMPACT;

    __device__ Compact(const u32* lookup, u32 bits, u32) : lookup(lookup), bits(bits) {}

    __device__ Slot find(u32 table, u32 slot) const {
        const u32 entry = lookup[table << bits | slot];
        return {entry & 0xff, (entry >> 20) + 1, entry >> 8 & 0xfff};
    }

private:
    const u32* lookup;
    u32 bits;
};

// Two lookups a symbol, but in far less memory where there are many tables: 16 of 12 bits fit into shared memory.
template <class S>
class Wide {
public:
    static constexpr Form FORM = sizeof(S) == 1 ? WIDE8 : WIDE16;

    __device__ Wide(const u32* lookup, u32 bits, u32 alphabet)
        : lookup(lookup), symbols_size(table_size(FORM, bits, 0)), size(table_size(FORM, bits, alphabet)) {}

    __device__ Slot find(u32 table, u32 slot) const {
        const u32* here = lookup + table * size;
        const u32 symbol = reinterpret_cast<const S*>(here)[slot];
        const u32 interval = here[symbols_size + symbol];
        return {symbol, interval >> 16, slot - (interval & 0xffff)};
    }

private:
    const u32* lookup;
    u32 symbols_size, size;
};

// Return where a kernel looks symbols up: in shared memory, to which the block copies the tables, or where they are.
template <bool SHARED>
__device__ const u32* place_lookup(const u32* lookup, u32 size, u32* shared) {
    if constexpr (SHARED) {
        for (u32 i = threadIdx.x; i < size; i += blockDim.x) shared[i] = lookup[i];
        __syncthreads();
        return shared;
    } else {
        return lookup;
    }
}
