#pragma once
#include "platform.cuh"

/// A trained matrix, `[rows, columns]`: master, moments are dense, gradient and working copy may lie in wider rows.
template <class T> struct TrainedTensor {
    float* master;
    float* first;
    float* second;
    const float* gradient;
    /// What products read, `master * working_scale` rounded; null where they read the master itself.
    T* working;
    long long rows, columns, gradient_stride, working_stride;
    float working_scale;
    /// Whether weight decay applies.
    int decays;
};

template <class T> struct SquaredNormArguments {
    const TrainedTensor<T>* tensors;
    /// `[tensors][gridDim.x]`.
    float* sums;
};

/// Sums of squared gradients: row `y` of the grid belongs to tensor `y`.
template <class T> __device__ void squared_norm(const SquaredNormArguments<T>& a) {
    const TrainedTensor<T>& tensor = a.tensors[blockIdx.y];
    float sum = 0.0f;
    for (long long place = first_place(); place < tensor.rows * tensor.columns; place += place_step()) {
        const float gradient = tensor.gradient[place / tensor.columns * tensor.gradient_stride + place % tensor.columns];
        sum += gradient * gradient;
    }
    const float total = block_sum(sum);
    if (threadIdx.x == 0) a.sums[static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x] = total;
}

template <class T> struct AdamwArguments {
    const TrainedTensor<T>* tensors;
    float first_decay, second_decay;
    /// What is left of a value where decay applies.
    float keep;
    float rate, root, gradient_scale, epsilon;
};

/// AdamW on f32 masters, and the working copies anew.
template <class T> __device__ void adamw(const AdamwArguments<T>& a) {
    const TrainedTensor<T>& tensor = a.tensors[blockIdx.y];
    const float keep = tensor.decays ? a.keep : 1.0f;
    for (long long place = first_place(); place < tensor.rows * tensor.columns; place += place_step()) {
        const long long row = place / tensor.columns, column = place % tensor.columns;
        const float gradient = tensor.gradient[row * tensor.gradient_stride + column] * a.gradient_scale;
        const float first = a.first_decay * tensor.first[place] + (1.0f - a.first_decay) * gradient;
        const float second = a.second_decay * tensor.second[place] + (1.0f - a.second_decay) * gradient * gradient;
        const float value = keep * tensor.master[place] - a.rate * first / (sqrtf(second) * a.root + a.epsilon);
        tensor.first[place] = first;
        tensor.second[place] = second;
        tensor.master[place] = value;
        if (tensor.working != nullptr)
            tensor.working[row * tensor.working_stride + column] = from_float<T>(value * tensor.working_scale);
    }
}

/// The working copies anew, after masters were set from outside.
template <class T> __device__ void refresh_working(const AdamwArguments<T>& a) {
    const TrainedTensor<T>& tensor = a.tensors[blockIdx.y];
    if (tensor.working == nullptr) return;
    for (long long place = first_place(); place < tensor.rows * tensor.columns; place += place_step()) {
        const long long row = place / tensor.columns, column = place % tensor.columns;
        tensor.working[row * tensor.working_stride + column] = from_float<T>(tensor.master[place] * tensor.working_scale);
    }
}
