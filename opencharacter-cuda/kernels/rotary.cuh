#pragma once
#include "platform.cuh"

template <class T> struct RotationTableArguments {
    const int* positions;
    /// Radians per position of each pair.
    const float* frequencies;
    /// `[tokens][half]` cosines and sines in turn.
    float* table;
    int tokens, half;
};

template <class T> __device__ void rotation_table(const RotationTableArguments<T>& a) {
    const long long elements = static_cast<long long>(a.tokens) * a.half;
    for (long long place = first_place(); place < elements; place += place_step()) {
        const float angle = static_cast<float>(a.positions[place / a.half]) * a.frequencies[place % a.half];
        a.table[2 * place] = cosf(angle);
        a.table[2 * place + 1] = sinf(angle);
    }
}

template <class T> struct RotateArguments {
    const T* input;
    T* out;
    const float* table;
    /// 1 turns forward, -1 back.
    float sign;
    int tokens, heads, half, input_stride, out_stride;
};

/// Rotates each head's pairs, which lie half a head apart, by their token's angles. `out` may be `input`.
template <class T> __device__ void rotate(const RotateArguments<T>& a) {
    const long long row_pairs = static_cast<long long>(a.heads) * a.half;
    const long long elements = a.tokens * row_pairs;
    for (long long place = first_place(); place < elements; place += place_step()) {
        const long long token = place / row_pairs;
        const int head = static_cast<int>(place % row_pairs) / a.half, pair = static_cast<int>(place % a.half);
        const float cosine = a.table[2 * (token * a.half + pair)];
        const float sine = a.sign * a.table[2 * (token * a.half + pair) + 1];
        const int column = head * 2 * a.half + pair;
        const float low = to_float(a.input[token * a.input_stride + column]);
        const float high = to_float(a.input[token * a.input_stride + column + a.half]);
        a.out[token * a.out_stride + column] = from_float<T>(low * cosine - high * sine);
        a.out[token * a.out_stride + column + a.half] = from_float<T>(high * cosine + low * sine);
    }
}
