// What matmul calls its wide values, for variants whose widest registers hold eight lanes.
static constexpr int group_rows = 8;
using Bytes = bytes32;
using Ints = i32x8;
using Floats = f32x8;
static inline Bytes load_register(const void* p) { return load_bytes(p); }
static inline Floats load_halves(const uint8_t* p) { return load_f16(reinterpret_cast<const uint16_t*>(p)); }
static inline Floats load_brains(const uint8_t* p) { return load_bf16(reinterpret_cast<const uint16_t*>(p)); }
static inline Floats load_unsigned(const uint8_t* p) { return load_u8(p); }
static inline Floats load_signed(const uint8_t* p) { return load_i8(reinterpret_cast<const int8_t*>(p)); }
static inline Floats load_floats(const float* p) { return load(p); }
static inline Floats spread(float a) { return broadcast(a); }
static inline Ints spread_int(int32_t a) { return broadcast_int(a); }
static inline Ints zeros() { return zero(); }
