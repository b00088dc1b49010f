// What symbols stand for, written where it belongs (spec/transforms.md 1, 2). There are four sinks: Symbol of u8 or u16,
// Field and Word of u8, u16, u32 or u64, Scaled of u16, u32 or u64. `PLACED` says whether one wants to know where a
// symbol lies.
#pragma once
#include "place.cuh"

// The symbol itself.
template <class T>
class Symbol {
public:
    static constexpr bool PLACED = false;

    __device__ explicit Symbol(const Sequence& sequence) : words(static_cast<T*>(sequence.words)) {}

    template <class Where>
    __device__ void put(u64 index, u32 symbol, const Where&) const {
        words[index] = T(symbol);
    }

private:
    T* words;
};

// Bits of a word: the symbol, shifted; joined to the bits that are there, or in their place.
template <class T>
class Field {
public:
    static constexpr bool PLACED = false;

    __device__ explicit Field(const Sequence& sequence)
        : words(static_cast<T*>(sequence.words)), shift(sequence.shift), join(sequence.join != 0) {}

    template <class Where>
    __device__ void put(u64 index, u32 symbol, const Where&) const {
        const T word = T(T(symbol) << shift);
        words[index] = join ? T(words[index] | word) : word;
    }

private:
    T* words;
    u32 shift;
    bool join;
};

// The word of the symbol in a codebook: no arithmetic at all.
template <class T>
class Word {
public:
    static constexpr bool PLACED = false;

    __device__ explicit Word(const Sequence& sequence)
        : words(static_cast<T*>(sequence.words)), codebook(static_cast<const T*>(sequence.codebook)) {}

    template <class Where>
    __device__ void put(u64 index, u32 symbol, const Where&) const {
        words[index] = codebook[symbol];
    }

private:
    T* words;
    const T* codebook;
};

// Return v / 2**n for n in [1, 31], rounded to nearest even; v is below 2**31.
__device__ inline u32 shift_rounded(u32 v, u32 n) {
    return (v + (1u << (n - 1)) - 1 + (v >> n & 1)) >> n;
}

__device__ inline u16 bfloat16_bits(float value) {
    const u32 bits = __float_as_uint(value);
    return u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // a carry out of the largest mantissa gives infinity
}

__device__ inline u16 float16_bits(float value) {
    const u32 bits = __float_as_uint(value), magnitude = bits & 0x7fffffff, exponent = magnitude >> 23;
    const u32 sign = bits >> 16 & 0x8000;
    if (exponent < 113) {  // subnormal: in units of 2**-24; below 2**-25 nothing is left
        const u32 shift = 126 - exponent;
        return u16(sign | shift_rounded((magnitude & 0x7fffff) | 0x800000, shift < 25 ? shift : 25));
    }
    const u32 rounded = shift_rounded(magnitude - (112u << 23), 13);
    return u16(sign | (rounded < 0x7c00 ? rounded : 0x7c00));  // what is beyond is infinite
}

// Return a float32 as the float that is as wide as T, by its bits, rounded to nearest even.
template <class T> __device__ T float_bits(float value, bool bfloat16);
template <> __device__ inline u16 float_bits<u16>(float value, bool bfloat16) {
    return bfloat16 ? bfloat16_bits(value) : float16_bits(value);
}
template <> __device__ inline u32 float_bits<u32>(float value, bool) { return __float_as_uint(value); }
template <> __device__ inline u64 float_bits<u64>(float value, bool) {
    return u64(__double_as_longlong(double(value)));
}

// The value of the symbol times the scales of its row and column, each product rounded by itself.
template <class T>
class Scaled {
public:
    static constexpr bool PLACED = true;

    __device__ explicit Scaled(const Sequence& sequence)
        : words(static_cast<T*>(sequence.words)), codebook(static_cast<const float*>(sequence.codebook)),
          rows(sequence.row_scale), columns(sequence.column_scale), bfloat16(sequence.bfloat16 != 0) {}

    template <class Where>
    __device__ void put(u64 index, u32 symbol, const Where& where) const {
        float value = codebook[symbol];
        if (rows != nullptr) value = __fmul_rn(value, rows[where.row]);
        if (columns != nullptr) value = __fmul_rn(value, columns[where.column]);
        words[index] = float_bits<T>(value, bfloat16);
    }

private:
    T* words;
    const float* codebook;
    const float* rows;
    const float* columns;
    bool bfloat16;
};
