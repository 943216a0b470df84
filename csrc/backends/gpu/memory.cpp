#include "backends/gpu/memory.h"

#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

#include "backends/gpu/kernels.h"
#include "runtime/error.h"
#include "runtime/thread_pool.h"

namespace skipstone::gpu {
namespace {

constexpr int64_t canonical_bytes = 6144;

// Any quantized type as decode.h's Canonical reads it: int8 in Q8_0's places, then the scales and minima of 16 positions.
void pack_canonical(const Weight& w, int64_t expert, int64_t tile, int64_t chunk, uint8_t* out) {
  const formats::TypeInfo& type = w.type();
  const int64_t row_bytes = w.columns() / type.block * type.bytes, blocks = w.columns() / 32;
  memset(out, 0, canonical_bytes);
  float* scales = reinterpret_cast<float*>(out + 4096);
  for (int r = 0; r < tile_rows && tile * tile_rows + r < w.rows(); ++r)
    for (int b = 0; b < 8 && 8 * chunk + b < blocks; ++b) {
      formats::Unpacked u;
      type.unpack(w.data(expert) + (tile * tile_rows + r) * row_bytes, 8 * chunk + b, u);
      for (int k = 0; k < 32; k += 4) memcpy(out + 512 * b + 16 * (4 * (r % 8) + k % 16 / 4) + 4 * (2 * (k / 16) + r / 8), u.q + k, 4);
      for (int half = 0; half < 2; ++half) {
        scales[16 * r + 2 * b + half] = u.scale[half];
        scales[256 + 16 * r + 2 * b + half] = u.min[half];
      }
    }
}

void upload_plain(const std::shared_ptr<Driver>& driver, DeviceWeight& d) {
  const Weight& w = *d.weight;
  const std::string type = w.type().name;
  d.plain = type == "F32" ? 0 : type == "F16" ? 1 : 2;
  d.expert_bytes = w.bytes() / d.experts;
  d.memory = Memory(driver, w.bytes());
  if (w.scaled()) {
    d.stretch = static_cast<int>(w.scale_columns());
    d.factors = Memory(driver, static_cast<int64_t>(w.factors().size()) * 4);
    driver->write(d.factors.address(), w.factors().data(), d.factors.bytes());
  }
  for (int e = 0; e < d.experts; ++e) driver->write(d.memory.address() + static_cast<Address>(e * d.expert_bytes), w.data(e), d.expert_bytes);
}

std::shared_ptr<DeviceWeight> upload(const std::shared_ptr<Driver>& driver, const std::shared_ptr<Weight>& weight, bool canonical) {
  auto d = std::make_shared<DeviceWeight>();
  const Weight& w = *weight;
  d->weight = weight;
  d->rows = static_cast<int>(w.rows());
  d->columns = static_cast<int>(w.columns());
  d->experts = static_cast<int>(w.experts());
  if (!w.type().unpack) {
    upload_plain(driver, *d);
    return d;
  }
  const Layout* layout = canonical ? nullptr : find_layout(w.type().id);
  const int64_t chunk_bytes = layout ? layout->chunk_bytes : canonical_bytes;
  d->chunks = static_cast<int>(chunk_count(w.columns()));
  d->tiles = static_cast<int>(tile_count(w.rows()));
  d->chunk_bytes = static_cast<int>(chunk_bytes);
  d->type = layout ? layout->kernel : "canonical";
  const int64_t tile_bytes = d->chunks * chunk_bytes, all = int64_t{d->tiles} * d->experts, at_once = std::max<int64_t>(2, (int64_t{64} << 20) / tile_bytes / 2 * 2);
  d->expert_bytes = d->tiles * tile_bytes;
  d->memory = Memory(driver, all * tile_bytes);
  const auto staging = skipstone::allocate(std::min<int64_t>(at_once, all) * tile_bytes);
  for (int64_t first = 0; first < all; first += at_once) {
    const int64_t count = std::min<int64_t>(at_once, all - first);
    ThreadPool::shared().run(usable_cores(), [&](int member, Team& team) {
      // Pairs of tiles, for two tiles' chunks lie side by side.
      int64_t begin = first + count / 2 * member / team.size() * 2;
      const int64_t end = first + count / 2 * (member + 1) / team.size() * 2;
      while (begin < end) {
        const int64_t expert = begin / d->tiles, tile = begin % d->tiles, last = std::min<int64_t>(d->tiles, tile + end - begin);
        uint8_t* packed = staging.get() + (expert * d->tiles - first) * tile_bytes;      // the expert's tile 0
        if (layout) pack(*layout, w.data(expert), w.rows(), w.columns(), packed, tile, last);
        else
          for (int64_t t = tile; t < last; ++t)
            for (int64_t c = 0; c < d->chunks; ++c) pack_canonical(w, expert, t, c, packed + chunk_place(t, c, d->chunks) * canonical_bytes);
        begin += last - tile;
      }
    });
    driver->write(d->memory.address() + static_cast<Address>(first * tile_bytes), staging.get(), count * tile_bytes);
    driver->wait();
  }
  return d;
}

}  // namespace

std::shared_ptr<const DeviceWeight> upload(const std::shared_ptr<Driver>& driver, const std::shared_ptr<Weight>& weight) {
  const auto made = upload(driver, weight, false);
  driver->wait();
  made->weight.reset();
  return made;
}

int64_t device_bytes(const std::string& type, int64_t rows, int64_t columns) {
  const formats::TypeInfo* info = formats::find(type);
  if (!info) throw ArgumentError("weight type '" + type + "' is unknown");
  if (!info->unpack) return rows * (columns / info->block) * info->bytes;
  const Layout* layout = find_layout(info->id);
  return chunk_count(columns) * tile_count(rows) * (layout ? layout->chunk_bytes : canonical_bytes);
}

std::shared_ptr<const DeviceWeight> on_device(const std::shared_ptr<Driver>& driver, const std::shared_ptr<Weight>& weight, bool canonical) {
  if (weight->scaled() && weight->type().unpack) throw ModelError(std::string("weights of type ") + weight->type().name + " with a .scale tensor beside them cannot be multiplied on a card yet; use device='cpu'");
  static std::mutex mutex;
  static std::map<std::tuple<const Driver*, const Weight*, bool>, std::weak_ptr<const DeviceWeight>> known;
  std::lock_guard<std::mutex> lock(mutex);
  auto& entry = known[{driver.get(), weight.get(), canonical}];
  auto found = entry.lock();
  if (!found) entry = found = upload(driver, weight, canonical);
  return found;
}

}  // namespace skipstone::gpu
