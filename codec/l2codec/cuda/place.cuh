// Where a symbol lies in its tensor, and what follows from that: its class (spec/entropy-coding.md 3).
#pragma once
#include "common.cuh"

// Row, column and position of a symbol, moved on by one `stride` at a time without division. `USED` is false where
// nobody asks: all of it then costs nothing, and one table codes the sequence.
template <bool USED>
class Place {
public:
    u32 row = 0, column = 0, position = 0;

    __device__ Place(const Sequence& sequence, u64 index, u32 stride)
        : ends(sequence.ends), index(index), stride(stride), columns(sequence.columns), positions(sequence.positions) {
        if (ends != nullptr) {
            while (ends[row] <= index) row++;
            return;
        }
        position = u32(index % positions);
        column = u32(index / positions % columns);
        row = u32(index / positions / columns);
        position_stride = stride % positions;
        column_stride = stride / positions % columns;
        row_stride = stride / positions / columns;
    }

    // Go to a symbol of the sequence that is one stride further.
    __device__ void forward() {
        if (ends != nullptr) {
            index += stride;
            while (ends[row] <= index) row++;
            return;
        }
        position += position_stride;
        const u32 next_column = position >= positions;
        position -= next_column ? positions : 0;
        column += column_stride + next_column;
        const u32 next_row = column >= columns;
        column -= next_row ? columns : 0;
        row += row_stride + next_row;
    }

    // Go to a symbol of the sequence that is one stride nearer.
    __device__ void backward() {
        if (ends != nullptr) {
            index -= stride;
            while (row > 0 && ends[row - 1] > index) row--;
            return;
        }
        const u32 next_column = position < position_stride;
        position += (next_column ? positions : 0) - position_stride;
        const u32 columns_back = column_stride + next_column, next_row = column < columns_back;
        column += (next_row ? columns : 0) - columns_back;
        row -= row_stride + next_row;
    }

    // Return the number of the table that codes the symbol.
    __device__ u32 table(const Sequence& sequence) const {
        int offset = int(sequence.base);
        if (sequence.row != nullptr) offset += sequence.row[row];
        if (sequence.column != nullptr) offset += sequence.column[column];
        if (sequence.position != nullptr) offset += sequence.position[position];
        const int highest = int(sequence.top);
        return u32(offset < 0 ? 0 : offset > highest ? highest : offset);
    }

private:
    const u64* ends;
    u64 index;
    u32 stride, columns, positions, position_stride = 0, column_stride = 0, row_stride = 0;
};

template <>
class Place<false> {
public:
    __device__ Place(const Sequence& sequence, u64, u32) : only(sequence.base) {}
    __device__ void forward() {}
    __device__ void backward() {}
    __device__ u32 table(const Sequence&) const { return only; }

private:
    u32 only;
};
