// Eight lanes in AVX2, FMA and F16C registers; included into the namespace of each variant that uses them. Same bits as baseline/isa.h.

using f32x8 = __m256;
using i32x8 = __m256i;
using bytes32 = __m256i;

static inline f32x8 load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, f32x8 a) { _mm256_storeu_ps(p, a); }
// Stays in a register: otherwise the compiler reads a value with two users twice, and reading is what is scarce there.
static inline f32x8 kept(f32x8 a) {
  asm("" : "+x"(a));
  return a;
}
static inline f32x8 broadcast(float a) { return _mm256_set1_ps(a); }
static inline f32x8 add(f32x8 a, f32x8 b) { return _mm256_add_ps(a, b); }
static inline f32x8 sub(f32x8 a, f32x8 b) { return _mm256_sub_ps(a, b); }
static inline f32x8 mul(f32x8 a, f32x8 b) { return _mm256_mul_ps(a, b); }
static inline f32x8 div(f32x8 a, f32x8 b) { return _mm256_div_ps(a, b); }
static inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) { return _mm256_fmadd_ps(a, b, c); }
static inline f32x8 max(f32x8 a, f32x8 b) { return _mm256_max_ps(a, b); }
static inline f32x8 min(f32x8 a, f32x8 b) { return _mm256_min_ps(a, b); }
static inline f32x8 abs(f32x8 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline f32x8 round_even(f32x8 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline float lane0(f32x8 a) { return _mm256_cvtss_f32(a); }

static inline float sum(f32x8 a) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));      // 0+4 1+5 2+6 3+7
  __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));                             // (0+4)+(2+6)  (1+5)+(3+7)
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
static inline float max_lane(f32x8 a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
[[gnu::always_inline]] static inline f32x8 sums(const f32x8 a[8]) {
  // Halves first (l + l+4), then l + l+2, then l + l+1: the tree of sum(), eight at once.
  __m128 h[8];
  for (int i = 0; i < 8; ++i) h[i] = _mm_add_ps(_mm256_castps256_ps128(a[i]), _mm256_extractf128_ps(a[i], 1));
  __m128 result[2];
  for (int g = 0; g < 2; ++g) {
    __m128* q = h + 4 * g;
    __m128 low01 = _mm_movelh_ps(q[0], q[1]), high01 = _mm_movehl_ps(q[1], q[0]);        // lanes 0 1 of both | lanes 2 3 of both
    __m128 low23 = _mm_movelh_ps(q[2], q[3]), high23 = _mm_movehl_ps(q[3], q[2]);
    __m128 s01 = _mm_add_ps(low01, high01), s23 = _mm_add_ps(low23, high23);
    result[g] = _mm_add_ps(_mm_shuffle_ps(s01, s23, _MM_SHUFFLE(2, 0, 2, 0)), _mm_shuffle_ps(s01, s23, _MM_SHUFFLE(3, 1, 3, 1)));
  }
  return _mm256_insertf128_ps(_mm256_castps128_ps256(result[0]), result[1], 1);
}

static inline f32x8 power_of_two(f32x8 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127)), 23));
}

static inline f32x8 load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
static inline f32x8 load_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
static inline void store_f16(uint16_t* p, f32x8 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void store_bf16(uint16_t* p, f32x8 a) {
  __m256i bits = _mm256_castps_si256(a);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(64));
  __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  __m256i r = _mm256_blendv_epi8(rounded, quiet, is_nan);
  r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(r));
}
static inline f32x8 load_u8(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
static inline f32x8 load_i8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

static inline f32x8 eight_low_nibbles(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))), _mm256_set1_epi32(15)));
}
static inline f32x8 eight_high_nibbles(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))), 4));
}

static inline i32x8 zero() { return _mm256_setzero_si256(); }
static inline i32x8 broadcast_int(int32_t a) { return _mm256_set1_epi32(a); }
static inline i32x8 add(i32x8 a, i32x8 b) { return _mm256_add_epi32(a, b); }
static inline f32x8 to_float(i32x8 a) { return _mm256_cvtepi32_ps(a); }
static inline void store_i8(int8_t* p, const f32x8 a[4]) {
  const __m256i low = _mm256_packs_epi32(_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1])), high = _mm256_packs_epi32(_mm256_cvtps_epi32(a[2]), _mm256_cvtps_epi32(a[3]));
  const __m256i bytes = _mm256_packs_epi16(low, high);         // fours of values, in the order 0 2 4 6 1 3 5 7
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

static inline bytes32 load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
static inline void store_bytes(void* p, bytes32 a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
static inline bytes32 low_nibbles(bytes32 a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
static inline bytes32 high_nibbles(bytes32 a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15)); }
template <int bit, int to> static inline bytes32 take_bit(bytes32 a) {
  if constexpr (bit < to) a = _mm256_slli_epi16(a, to - bit);
  if constexpr (bit > to) a = _mm256_srli_epi16(a, bit - to);
  return _mm256_and_si256(a, _mm256_set1_epi8(static_cast<char>(1 << to)));
}
template <int bit> static inline bytes32 take_pair(bytes32 a) {
  if constexpr (bit < 4) a = _mm256_slli_epi16(a, 4 - bit);
  if constexpr (bit > 4) a = _mm256_srli_epi16(a, bit - 4);
  return _mm256_and_si256(a, _mm256_set1_epi8(0x30));
}
static inline bytes32 either(bytes32 a, bytes32 b) { return _mm256_or_si256(a, b); }

static inline bytes32 lookup(const int8_t table[16], bytes32 a) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), a);
}
template <int bit> static inline bytes32 low_pair(bytes32 a) { return _mm256_and_si256(bit ? _mm256_srli_epi16(a, bit) : a, _mm256_set1_epi8(3)); }
static inline bytes32 flip_sign_bit(bytes32 a) { return _mm256_xor_si256(a, _mm256_set1_epi8(-128)); }

static inline __m256i four(const int8_t* y) {
  int32_t bits;
  __builtin_memcpy(&bits, y, 4);
  return _mm256_set1_epi32(bits);
}

[[gnu::always_inline]] static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

