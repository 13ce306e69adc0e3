#pragma once
#include "platform.cuh"

template <class T> struct SwigluArguments {
    /// `[rows, 2 * width]`: gates, then ups.
    const T* gate_up;
    /// Of the result; not read on the way forward.
    const T* gradient;
    T* activated;
    /// `[rows, 2 * width]`; not written on the way forward.
    T* gate_up_gradient;
    int rows, width, gate_up_stride, gradient_stride, activated_stride, gate_up_gradient_stride;
};

/// Calls `body(row, column, Count<N>)` for this thread's elements of `[rows, width]`.
template <class T, class Body> __device__ void for_elements(int rows, int width, bool packed, Body body) {
    const int step = packed ? Pack<T>::LENGTH : 1;
    const long long row_packs = width / step, packs = rows * row_packs;
    for (long long place = first_place(); place < packs; place += place_step()) {
        const long long row = place / row_packs;
        const int column = static_cast<int>(place % row_packs) * step;
        if (packed) {
            body(row, column, Count<Pack<T>::LENGTH>{});
        } else {
            body(row, column, Count<1>{});
        }
    }
}

/// `silu(gate) * up`; `silu(x) = x / (1 + e^-x)`.
template <class T> __device__ void swiglu(const SwigluArguments<T>& a) {
    const bool packed = in_packs(a.gate_up, a.width, a.gate_up_stride) && in_packs(a.activated, a.width, a.activated_stride);
    for_elements<T>(a.rows, a.width, packed, [&](long long row, int column, auto count) {
        constexpr int N = decltype(count)::VALUE;
        const T* source = a.gate_up + row * a.gate_up_stride + column;
        Floats<N> gate = load<N>(source);
        const Floats<N> up = load<N>(source + a.width);
        for (int i = 0; i < N; ++i) gate.values[i] = gate.values[i] / (1.0f + expf(-gate.values[i])) * up.values[i];
        store<N>(a.activated + row * a.activated_stride + column, gate);
    });
}

/// The gradients of gate and up, and the activations once more, which the weight behind them needs.
template <class T> __device__ void swiglu_backward(const SwigluArguments<T>& a) {
    const bool packed = in_packs(a.gate_up, a.width, a.gate_up_stride) &&
                        in_packs(a.activated, a.width, a.activated_stride) &&
                        in_packs(a.gradient, a.width, a.gradient_stride) &&
                        in_packs(a.gate_up_gradient, a.width, a.gate_up_gradient_stride);
    for_elements<T>(a.rows, a.width, packed, [&](long long row, int column, auto count) {
        constexpr int N = decltype(count)::VALUE;
        const T* source = a.gate_up + row * a.gate_up_stride + column;
        const Floats<N> gate = load<N>(source), up = load<N>(source + a.width);
        const Floats<N> gradient = load<N>(a.gradient + row * a.gradient_stride + column);
        Floats<N> activated, gate_gradient, up_gradient;
        for (int i = 0; i < N; ++i) {
            const float sigmoid = 1.0f / (1.0f + expf(-gate.values[i]));
            const float silu = gate.values[i] * sigmoid;
            activated.values[i] = silu * up.values[i];
            up_gradient.values[i] = gradient.values[i] * silu;
            gate_gradient.values[i] = gradient.values[i] * up.values[i] * (sigmoid + silu * (1.0f - sigmoid));
        }
        store<N>(a.activated + row * a.activated_stride + column, activated);
        T* target = a.gate_up_gradient + row * a.gate_up_gradient_stride + column;
        store<N>(target, gate_gradient);
        store<N>(target + a.width, up_gradient);
    });
}
