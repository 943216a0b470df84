// Bytes that become wider lanes, for matmul with eight lanes; included after common/eight_lanes.inl.
static inline __m256i load_widened(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
static inline Floats load_low_nibbles(const uint8_t* p) { return _mm256_cvtepi32_ps(_mm256_and_si256(load_widened(p), _mm256_set1_epi32(15))); }
static inline Floats load_high_nibbles(const uint8_t* p) { return _mm256_cvtepi32_ps(_mm256_srli_epi32(load_widened(p), 4)); }
static inline Floats load_exponents(const uint8_t* p) {
  const __m256i e = load_widened(p), normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
  const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
  return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}
template <int BITS> static inline Ints shifted(Ints a) { return _mm256_slli_epi32(a, BITS); }
