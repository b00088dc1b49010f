// What all kernels share: descriptors of work, status words, the place of a symbol in its tensor. See README.md.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffff;

// A sequence of symbols: what its values and classes need. Mirrored by `descriptors.SEQUENCE`.
struct Sequence {
    void* words;                // what is written, one word a symbol (encoding: the symbols that are read)
    const void* codebook;       // the word or the float32 of each symbol
    const float* row_scale;     // null where there is none, as all that follow
    const float* column_scale;
    const i8* row;              // class vectors
    const i8* column;
    const i8* position;
    const u64* ends;            // of rows of unequal lengths: the number of the symbol after each
    u32 columns, positions;     // of rows that are alike
    u32 base, top;              // class without vectors, highest class
    u32 shift;                  // bits that symbols are shifted by, where there is no codebook
    u32 join;                   // whether the shifted symbol is added to the word that is there
    u32 bfloat16;               // whether words of 16 bits are bfloat16
    u32 values;                 // entries of the codebook that coder `raw` may refer to
};

// A piece of a sequence that is coded by itself: a block, or what lies between two resume points of one. Mirrored by
// `descriptors.SEGMENT`.
struct Segment {
    u8* data;                   // the bytes of the block (encoding: memory for it)
    const u32* begin;           // the resume point to start from, null for the start of the block
    const u32* end;             // the resume point to end in, null for the end of the block
    u64 first;                  // the number of the first symbol in its sequence
    u32 bytes;                  // of the block (encoding: of the memory)
    u32 count;                  // of symbols
    u32 sequence;
    u32 lanes;                  // coder `raw`: bits of a symbol
};

// What became of a segment. Mirrored by `descriptors.Status`. The order is that in which errors are looked for.
enum Status : u32 {
    GOOD,
    BAD_LENGTH,         // the bytes are not states and whole words
    BAD_POINT,          // the resume point to start from lies beyond the words
    BAD_STATE,          // a state to start with is below 2**16
    TOO_SHORT,          // the stream ends before the symbols
    WRONG_POINT,        // the segment does not end in its resume point
    TOO_LONG,           // something is left after the last symbol
    WRONG_END,          // the last state or point is not as the specification wants it
    OUTSIDE,            // a point lies outside the range
    BAD_PADDING,        // unused bits are not zero
    NO_VALUE,           // a symbol has no value
    IMPOSSIBLE_SYMBOL,  // a symbol cannot be encoded
};

// Return whether a block begins where no word can: then one before it, of a stream that is aligned, has a bad length.
__device__ inline bool misplaced(const Segment& segment, u32 word_bytes) {
    return reinterpret_cast<u64>(segment.data) % word_bytes != 0;
}
