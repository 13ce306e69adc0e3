// Causal attention inside each of several packed sequences, in tiles, with tensor cores.
//
// A block takes a tile of queries (or of keys) of one head of one sequence and walks the tiles that it sees. Scores
// exist for one pair of tiles at a time, so memory is linear in the tokens whatever the sequences' lengths. The way
// forward walks the keys twice, first for each row's log of the sum of exponentials, then for the result: fragments of
// the tensor cores cannot be scaled row by row, and with the normalisers known they never need to be.
#pragma once
#include "platform.cuh"

constexpr int QUERY_TILE = 64;
constexpr int KEY_TILE = 32;
/// Four warps, each with 16 of a tile's queries.
constexpr int ATTENTION_THREADS = 128;
constexpr int SCORE_PITCH = KEY_TILE + 4;
constexpr int PROBABILITY_PITCH = KEY_TILE + 8;

template <class T> struct AttentionArguments {
    const T* queries;
    const T* keys;
    const T* values;
    /// `[heads][tokens]`: each row's log of the sum of exponentials.
    float* normalisers;
    /// `[tokens, heads * head_dim]`.
    T* out;
    const T* out_gradient;
    /// `[heads][tokens]`: the dot product of each row's result and its gradient.
    float* deltas;
    T* query_gradient;
    T* key_gradient;
    T* value_gradient;
    /// For each tile: where its sequence begins, its first token, where its sequence ends.
    const int* places;
    float scale;
    int tokens, query_stride, key_stride, value_stride, out_stride, out_gradient_stride, gradient_stride;
    int head_dim, heads;
    /// Query heads that share a key and value head.
    int group;
    /// A token sees itself and at most so many minus one before it; 0 where it sees all.
    int window;
};

/// Sizes for heads of up to HEAD features; the rest are zeros.
template <class T, int HEAD> struct HeadTile {
    static constexpr int PITCH = HEAD + 8;
    static constexpr int OUT_PITCH = HEAD + 4;
    static constexpr int QUERY_BYTES = QUERY_TILE * PITCH * sizeof(T);
    static constexpr int KEY_BYTES = KEY_TILE * PITCH * sizeof(T);
    static constexpr int SCORE_BYTES = QUERY_TILE * SCORE_PITCH * sizeof(float);
    static constexpr int PROBABILITY_BYTES = QUERY_TILE * PROBABILITY_PITCH * sizeof(T);
};

template <class T> using Left = tiles::fragment<tiles::matrix_a, 16, 16, 16, T, tiles::row_major>;
template <class T> using TurnedLeft = tiles::fragment<tiles::matrix_a, 16, 16, 16, T, tiles::col_major>;
template <class T> using Right = tiles::fragment<tiles::matrix_b, 16, 16, 16, T, tiles::row_major>;
template <class T> using TurnedRight = tiles::fragment<tiles::matrix_b, 16, 16, 16, T, tiles::col_major>;
using Sums = tiles::fragment<tiles::accumulator, 16, 16, 16, float>;

/// Copies `count` rows of one head into a tile of `rows`, and fills the rest with zeros.
template <class T, int HEAD>
__device__ void load_tile(T* tile, const T* source, int stride, int rows, int count, int head_dim) {
    constexpr int PITCH = HeadTile<T, HEAD>::PITCH;
    if (in_packs(source, head_dim, stride)) {
        constexpr int LENGTH = Pack<T>::LENGTH, PACKS = HEAD / LENGTH;
        for (int i = threadIdx.x; i < rows * PACKS; i += blockDim.x) {
            const int row = i / PACKS, column = i % PACKS * LENGTH;
            Pack<T> pack;
            if (row < count && column < head_dim) {
                pack = *reinterpret_cast<const Pack<T>*>(source + static_cast<long long>(row) * stride + column);
            } else {
#pragma unroll
                for (int j = 0; j < LENGTH; ++j) pack.values[j] = from_float<T>(0.0f);
            }
            *reinterpret_cast<Pack<T>*>(tile + row * PITCH + column) = pack;
        }
    } else {
        for (int i = threadIdx.x; i < rows * HEAD; i += blockDim.x) {
            const int row = i / HEAD, column = i % HEAD;
            const bool inside = row < count && column < head_dim;
            tile[row * PITCH + column] =
                inside ? source[static_cast<long long>(row) * stride + column] : from_float<T>(0.0f);
        }
    }
}

/// 16 rows of `rows` times all rows of a key tile: `out` is `[16][KEY_TILE]`.
template <class T, int HEAD> __device__ void multiply_rows(const T* rows, const T* keys, float* out) {
    constexpr int PITCH = HeadTile<T, HEAD>::PITCH;
    Sums sums[KEY_TILE / 16];
#pragma unroll
    for (auto& sum : sums) tiles::fill_fragment(sum, 0.0f);
#pragma unroll
    for (int k = 0; k < HEAD; k += 16) {
        Left<T> left;
        tiles::load_matrix_sync(left, rows + k, PITCH);
#pragma unroll
        for (int j = 0; j < KEY_TILE / 16; ++j) {
            TurnedRight<T> right;
            tiles::load_matrix_sync(right, keys + 16 * j * PITCH + k, PITCH);
            tiles::mma_sync(sums[j], left, right, sums[j]);
        }
    }
#pragma unroll
    for (int j = 0; j < KEY_TILE / 16; ++j)
        tiles::store_matrix_sync(out + 16 * j, sums[j], SCORE_PITCH, tiles::mem_row_major);
}

/// Which keys a query sees.
struct Sight {
    int query, last_query, last_key, window;

    __device__ bool sees(int key) const {
        return query < last_query && key < last_key && key <= query && (window == 0 || key > query - window);
    }
};

/// The first key that `token` sees.
__device__ inline int first_seen(int token, int start, int window) {
    const int first = token + 1 - window;
    return window > 0 && first > start ? first : start;
}

/// Writes `count` rows of one head from a tile of sums.
template <class T>
__device__ void write_tile(T* target, int stride, const float* tile, int pitch, int count, int head_dim) {
    for (int i = threadIdx.x; i < count * head_dim; i += blockDim.x) {
        const int row = i / head_dim, column = i % head_dim;
        target[static_cast<long long>(row) * stride + column] = from_float<T>(tile[row * pitch + column]);
    }
}

/// One block per tile of queries and per head.
template <class T, int HEAD> __device__ void attention_forward(const AttentionArguments<T>& a) {
    using Tile = HeadTile<T, HEAD>;
    SHARED_MEMORY(memory);
    T* queries = reinterpret_cast<T*>(memory);
    T* keys = reinterpret_cast<T*>(memory + Tile::QUERY_BYTES);
    T* values = reinterpret_cast<T*>(memory + Tile::QUERY_BYTES + Tile::KEY_BYTES);
    float* scores = reinterpret_cast<float*>(memory + Tile::QUERY_BYTES + 2 * Tile::KEY_BYTES);
    T* probabilities = reinterpret_cast<T*>(memory + Tile::QUERY_BYTES + 2 * Tile::KEY_BYTES + Tile::SCORE_BYTES);

    const int start = a.places[3 * blockIdx.x], first = a.places[3 * blockIdx.x + 1], end = a.places[3 * blockIdx.x + 2];
    const int last = end < first + QUERY_TILE ? end : first + QUERY_TILE;
    const int head = blockIdx.y, corner = head * a.head_dim, key_corner = head / a.group * a.head_dim;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    // Two lanes share a row: each has half of a tile's keys.
    const int row = 16 * warp + lane / 2, half = lane % 2 * (KEY_TILE / 2);
    const Sight sight{first + row, last, last, a.window};
    const int first_key = first_seen(first, start, a.window);

    load_tile<T, HEAD>(queries, a.queries + static_cast<long long>(first) * a.query_stride + corner, a.query_stride,
                       QUERY_TILE, last - first, a.head_dim);
    float maximum = -INFINITY, total = 0.0f;
    for (int base = first_key; base < last; base += KEY_TILE) {
        __syncthreads();
        load_tile<T, HEAD>(keys, a.keys + static_cast<long long>(base) * a.key_stride + key_corner, a.key_stride,
                           KEY_TILE, last - base, a.head_dim);
        __syncthreads();
        multiply_rows<T, HEAD>(queries + 16 * warp * Tile::PITCH, keys, scores + 16 * warp * SCORE_PITCH);
        __syncwarp();
        const float* mine = scores + row * SCORE_PITCH + half;
        float greatest = maximum;
        for (int i = 0; i < KEY_TILE / 2; ++i)
            if (sight.sees(base + half + i)) greatest = fmaxf(greatest, mine[i] * a.scale);
        greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
        float sum = 0.0f;
        for (int i = 0; i < KEY_TILE / 2; ++i)
            if (sight.sees(base + half + i)) sum += expf(mine[i] * a.scale - greatest);
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        if (greatest > -INFINITY) {
            total = total * expf(maximum - greatest) + sum;
            maximum = greatest;
        }
    }
    const float normaliser = maximum + logf(total);
    if (half == 0 && sight.query < last) a.normalisers[static_cast<long long>(head) * a.tokens + sight.query] = normaliser;

    Sums sums[HEAD / 16];
#pragma unroll
    for (auto& sum : sums) tiles::fill_fragment(sum, 0.0f);
    for (int base = first_key; base < last; base += KEY_TILE) {
        __syncthreads();
        load_tile<T, HEAD>(keys, a.keys + static_cast<long long>(base) * a.key_stride + key_corner, a.key_stride,
                           KEY_TILE, last - base, a.head_dim);
        load_tile<T, HEAD>(values, a.values + static_cast<long long>(base) * a.value_stride + key_corner,
                           a.value_stride, KEY_TILE, last - base, a.head_dim);
        __syncthreads();
        multiply_rows<T, HEAD>(queries + 16 * warp * Tile::PITCH, keys, scores + 16 * warp * SCORE_PITCH);
        __syncwarp();
        for (int i = half; i < half + KEY_TILE / 2; ++i) {
            const float probability = sight.sees(base + i) ? expf(scores[row * SCORE_PITCH + i] * a.scale - normaliser) : 0.0f;
            probabilities[row * PROBABILITY_PITCH + i] = from_float<T>(probability);
        }
        __syncwarp();
#pragma unroll
        for (int k = 0; k < KEY_TILE; k += 16) {
            Left<T> left;
            tiles::load_matrix_sync(left, probabilities + 16 * warp * PROBABILITY_PITCH + k, PROBABILITY_PITCH);
#pragma unroll
            for (int j = 0; j < HEAD / 16; ++j) {
                Right<T> right;
                tiles::load_matrix_sync(right, values + k * Tile::PITCH + 16 * j, Tile::PITCH);
                tiles::mma_sync(sums[j], left, right, sums[j]);
            }
        }
    }
    __syncthreads();
    // The tiles are done with: their memory takes the result.
    float* staged = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int j = 0; j < HEAD / 16; ++j)
        tiles::store_matrix_sync(staged + 16 * warp * Tile::OUT_PITCH + 16 * j, sums[j], Tile::OUT_PITCH, tiles::mem_row_major);
    __syncthreads();
    write_tile(a.out + static_cast<long long>(first) * a.out_stride + corner, a.out_stride, staged, Tile::OUT_PITCH,
               last - first, a.head_dim);
}

/// One warp per token and head.
template <class T> __device__ void attention_deltas(const AttentionArguments<T>& a) {
    const long long row = static_cast<long long>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= static_cast<long long>(a.tokens) * a.heads) return;
    const long long token = row / a.heads;
    const int head = static_cast<int>(row % a.heads);
    float sum = 0.0f;
    for (int column = threadIdx.x % WARP; column < a.head_dim; column += WARP) {
        const int place = head * a.head_dim + column;
        sum += to_float(a.out[token * a.out_stride + place]) * to_float(a.out_gradient[token * a.out_gradient_stride + place]);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) a.deltas[static_cast<long long>(head) * a.tokens + token] = sum;
}

/// Probabilities P and score gradients dS = s P (dP - delta) of one query with its half of a key tile, from scores and
/// dP, where the query sees the key.
template <class T>
__device__ void differentiate_scores(const AttentionArguments<T>& a, const Sight& sight, int head, int base, int row,
                                     int half, const float* scores, const float* products, T* probabilities,
                                     T* score_gradients) {
    const bool valid = sight.query < sight.last_query;
    const long long place = static_cast<long long>(head) * a.tokens + sight.query;
    const float normaliser = valid ? a.normalisers[place] : 0.0f, delta = valid ? a.deltas[place] : 0.0f;
    for (int i = half; i < half + KEY_TILE / 2; ++i) {
        float probability = 0.0f, gradient = 0.0f;
        if (sight.sees(base + i)) {
            probability = expf(scores[row * SCORE_PITCH + i] * a.scale - normaliser);
            gradient = a.scale * probability * (products[row * SCORE_PITCH + i] - delta);
        }
        if (probabilities != nullptr) probabilities[row * PROBABILITY_PITCH + i] = from_float<T>(probability);
        score_gradients[row * PROBABILITY_PITCH + i] = from_float<T>(gradient);
    }
}

/// The tiles that a block of the way back works on.
template <class T, int HEAD> struct BackwardMemory {
    using Tile = HeadTile<T, HEAD>;
    T *queries, *out_gradients, *keys, *values, *probabilities, *score_gradients;
    float *scores, *products;

    __device__ explicit BackwardMemory(unsigned char* memory) {
        queries = reinterpret_cast<T*>(memory), memory += Tile::QUERY_BYTES;
        out_gradients = reinterpret_cast<T*>(memory), memory += Tile::QUERY_BYTES;
        keys = reinterpret_cast<T*>(memory), memory += Tile::KEY_BYTES;
        values = reinterpret_cast<T*>(memory), memory += Tile::KEY_BYTES;
        scores = reinterpret_cast<float*>(memory), memory += Tile::SCORE_BYTES;
        products = reinterpret_cast<float*>(memory), memory += Tile::SCORE_BYTES;
        probabilities = reinterpret_cast<T*>(memory), memory += Tile::PROBABILITY_BYTES;
        score_gradients = reinterpret_cast<T*>(memory);
    }

    __device__ void load_queries(const AttentionArguments<T>& a, int head, int first, int count) {
        const int corner = head * a.head_dim;
        load_tile<T, HEAD>(queries, a.queries + static_cast<long long>(first) * a.query_stride + corner,
                           a.query_stride, QUERY_TILE, count, a.head_dim);
        load_tile<T, HEAD>(out_gradients, a.out_gradient + static_cast<long long>(first) * a.out_gradient_stride + corner,
                           a.out_gradient_stride, QUERY_TILE, count, a.head_dim);
    }

    __device__ void load_keys(const AttentionArguments<T>& a, int key_head, int first, int count) {
        const int corner = key_head * a.head_dim;
        load_tile<T, HEAD>(keys, a.keys + static_cast<long long>(first) * a.key_stride + corner, a.key_stride, KEY_TILE,
                           count, a.head_dim);
        load_tile<T, HEAD>(values, a.values + static_cast<long long>(first) * a.value_stride + corner, a.value_stride,
                           KEY_TILE, count, a.head_dim);
    }

    /// Scores and dP = dO V' of a warp's 16 queries.
    __device__ void multiply(int warp) {
        multiply_rows<T, HEAD>(queries + 16 * warp * Tile::PITCH, keys, scores + 16 * warp * SCORE_PITCH);
        multiply_rows<T, HEAD>(out_gradients + 16 * warp * Tile::PITCH, values, products + 16 * warp * SCORE_PITCH);
    }
};

/// One block per tile of keys and per key and value head: dV = P' dO and dK = dS' Q, summed over the query heads that
/// share them in a fixed order.
template <class T, int HEAD> __device__ void attention_key_value_gradients(const AttentionArguments<T>& a) {
    using Tile = HeadTile<T, HEAD>;
    constexpr int COLUMNS = HEAD / 2;
    SHARED_MEMORY(memory);
    BackwardMemory<T, HEAD> shared(memory);
    const int first = a.places[3 * blockIdx.x + 1], end = a.places[3 * blockIdx.x + 2];
    const int last = end < first + KEY_TILE ? end : first + KEY_TILE;
    const int key_head = blockIdx.y;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int row = 16 * warp + lane / 2, half = lane % 2 * (KEY_TILE / 2);
    // Of the sums, a warp has 16 keys and half of the features.
    const int key_row = warp % 2 * 16, column = warp / 2 * COLUMNS;
    // The last key is the last one that the window lets a query forget.
    const int last_query = a.window > 0 && last - 1 + a.window < end ? last - 1 + a.window : end;

    Sums key_sums[COLUMNS / 16], value_sums[COLUMNS / 16];
#pragma unroll
    for (auto& sum : key_sums) tiles::fill_fragment(sum, 0.0f);
#pragma unroll
    for (auto& sum : value_sums) tiles::fill_fragment(sum, 0.0f);
    shared.load_keys(a, key_head, first, last - first);
    for (int head = key_head * a.group; head < (key_head + 1) * a.group; ++head) {
        for (int base = first; base < last_query; base += QUERY_TILE) {
            __syncthreads();
            shared.load_queries(a, head, base, last_query - base);
            __syncthreads();
            shared.multiply(warp);
            __syncwarp();
            const Sight sight{base + row, last_query, last, a.window};
            differentiate_scores(a, sight, head, first, row, half, shared.scores, shared.products, shared.probabilities,
                                 shared.score_gradients);
            __syncthreads();
#pragma unroll
            for (int k = 0; k < QUERY_TILE; k += 16) {
                TurnedLeft<T> probabilities, score_gradients;
                const int corner = k * PROBABILITY_PITCH + key_row;
                tiles::load_matrix_sync(probabilities, shared.probabilities + corner, PROBABILITY_PITCH);
                tiles::load_matrix_sync(score_gradients, shared.score_gradients + corner, PROBABILITY_PITCH);
#pragma unroll
                for (int j = 0; j < COLUMNS / 16; ++j) {
                    Right<T> right;
                    const int place = k * Tile::PITCH + column + 16 * j;
                    tiles::load_matrix_sync(right, shared.out_gradients + place, Tile::PITCH);
                    tiles::mma_sync(value_sums[j], probabilities, right, value_sums[j]);
                    tiles::load_matrix_sync(right, shared.queries + place, Tile::PITCH);
                    tiles::mma_sync(key_sums[j], score_gradients, right, key_sums[j]);
                }
            }
        }
    }
    __syncthreads();
    float* staged_keys = reinterpret_cast<float*>(memory);
    float* staged_values = staged_keys + KEY_TILE * Tile::OUT_PITCH;
#pragma unroll
    for (int j = 0; j < COLUMNS / 16; ++j) {
        const int place = key_row * Tile::OUT_PITCH + column + 16 * j;
        tiles::store_matrix_sync(staged_keys + place, key_sums[j], Tile::OUT_PITCH, tiles::mem_row_major);
        tiles::store_matrix_sync(staged_values + place, value_sums[j], Tile::OUT_PITCH, tiles::mem_row_major);
    }
    __syncthreads();
    const long long corner = static_cast<long long>(first) * a.gradient_stride + key_head * a.head_dim;
    write_tile(a.key_gradient + corner, a.gradient_stride, staged_keys, Tile::OUT_PITCH, last - first, a.head_dim);
    write_tile(a.value_gradient + corner, a.gradient_stride, staged_values, Tile::OUT_PITCH, last - first, a.head_dim);
}

/// One block per tile of queries and per head: dQ = dS K.
template <class T, int HEAD> __device__ void attention_query_gradients(const AttentionArguments<T>& a) {
    using Tile = HeadTile<T, HEAD>;
    SHARED_MEMORY(memory);
    BackwardMemory<T, HEAD> shared(memory);
    const int start = a.places[3 * blockIdx.x], first = a.places[3 * blockIdx.x + 1], end = a.places[3 * blockIdx.x + 2];
    const int last = end < first + QUERY_TILE ? end : first + QUERY_TILE;
    const int head = blockIdx.y;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int row = 16 * warp + lane / 2, half = lane % 2 * (KEY_TILE / 2);
    const Sight sight{first + row, last, last, a.window};

    Sums sums[HEAD / 16];
#pragma unroll
    for (auto& sum : sums) tiles::fill_fragment(sum, 0.0f);
    shared.load_queries(a, head, first, last - first);
    for (int base = first_seen(first, start, a.window); base < last; base += KEY_TILE) {
        __syncthreads();
        shared.load_keys(a, head / a.group, base, last - base);
        __syncthreads();
        shared.multiply(warp);
        __syncwarp();
        differentiate_scores<T>(a, sight, head, base, row, half, shared.scores, shared.products, nullptr,
                                shared.score_gradients);
        __syncwarp();
#pragma unroll
        for (int k = 0; k < KEY_TILE; k += 16) {
            Left<T> left;
            tiles::load_matrix_sync(left, shared.score_gradients + 16 * warp * PROBABILITY_PITCH + k, PROBABILITY_PITCH);
#pragma unroll
            for (int j = 0; j < HEAD / 16; ++j) {
                Right<T> right;
                tiles::load_matrix_sync(right, shared.keys + k * Tile::PITCH + 16 * j, Tile::PITCH);
                tiles::mma_sync(sums[j], left, right, sums[j]);
            }
        }
    }
    __syncthreads();
    float* staged = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int j = 0; j < HEAD / 16; ++j)
        tiles::store_matrix_sync(staged + 16 * warp * Tile::OUT_PITCH + 16 * j, sums[j], Tile::OUT_PITCH, tiles::mem_row_major);
    __syncthreads();
    write_tile(a.query_gradient + static_cast<long long>(first) * a.gradient_stride + head * a.head_dim,
               a.gradient_stride, staged, Tile::OUT_PITCH, last - first, a.head_dim);
}
