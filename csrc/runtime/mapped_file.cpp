#include "runtime/mapped_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <system_error>

#include "runtime/error.h"

namespace skipstone {

// Regions form a list that only grows, so that the handler may walk it at any moment; a region whose mapping is gone is empty and used again.
struct Region {
  std::atomic<uintptr_t> begin{0}, end{0};
  std::atomic<bool> damaged{false};
  std::string name;
  Region* next = nullptr;
};

namespace {

std::atomic<Region*> regions{nullptr};
std::atomic<int64_t> faults{0};
std::atomic<int> handing_on{0};        // calls of the earlier handler that have not returned
std::mutex changing;                   // of the list and of the handler; the handler itself takes no lock
uintptr_t page_bytes = 4096;
struct sigaction earlier;

Region* region_of(uintptr_t address) {
  for (Region* r = regions.load(); r; r = r->next)
    if (r->begin.load() <= address && address < r->end.load()) return r;
  return nullptr;
}

void on_bus_error(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
  Region* region = info->si_code > 0 ? region_of(address) : nullptr;      // 0 and below: sent by a process
  if (region) {
    region->damaged.store(true);
    faults.fetch_add(1);
    // Everything from here to the end at once: the file is of no use any more, and a fault a page would take long.
    const uintptr_t page = address / page_bytes * page_bytes;
    void* zeros = mmap(reinterpret_cast<void*>(page), region->end.load() - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    errno = saved;
    if (zeros != MAP_FAILED) return;
  }
  const bool sent = info->si_code <= 0;
  const bool has_earlier = (earlier.sa_flags & SA_SIGINFO) || (earlier.sa_handler != SIG_DFL && earlier.sa_handler != SIG_IGN);
  if (has_earlier && !(sent && handing_on.load())) {      // a handler that sends the signal again wants the process to end
    handing_on.fetch_add(1);
    if (earlier.sa_flags & SA_SIGINFO) earlier.sa_sigaction(number, info, context);
    else earlier.sa_handler(number);
    handing_on.fetch_sub(1);
    return;
  }
  signal(number, SIG_DFL);             // the fault comes again and ends the process, as it would have without us
  if (sent) raise(number);
}

// Others (Python's faulthandler, for one) may have set a handler since the last file: theirs is then the one to go on to.
void install_handler() {
  struct sigaction current;
  if (sigaction(SIGBUS, nullptr, &current) == 0 && (current.sa_flags & SA_SIGINFO) && current.sa_sigaction == on_bus_error) return;
  struct sigaction ours = {};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&ours.sa_mask);
  earlier = current;
  if (sigaction(SIGBUS, &ours, nullptr) != 0) throw std::system_error(errno, std::generic_category());
}

Region* take_region(const uint8_t* data, uint64_t bytes, std::string name) {
  Region* r = regions.load();
  while (r && r->end.load() != 0) r = r->next;
  const bool fresh = !r;
  if (fresh) r = new Region;
  r->damaged.store(false);
  r->name = std::move(name);
  r->begin.store(reinterpret_cast<uintptr_t>(data));
  r->end.store(reinterpret_cast<uintptr_t>(data) + bytes);
  if (fresh) {
    r->next = regions.load();
    regions.store(r);
  }
  return r;
}

}  // namespace

MappedFile::MappedFile(int descriptor, uint64_t size, std::string name) : data_(nullptr), size_(size), region_(nullptr) {
  struct stat status;
  if (fstat(descriptor, &status) != 0) throw std::system_error(errno, std::generic_category());
  if (static_cast<uint64_t>(status.st_size) < size)
    throw FileError(name + ": the file became shorter while it was opened, it has " + std::to_string(status.st_size) + " bytes; expected " + std::to_string(size));
  if (size == 0) return;
  void* p = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (p == MAP_FAILED) throw std::system_error(errno, std::generic_category());
  data_ = static_cast<uint8_t*>(p);
  const std::lock_guard lock(changing);
  page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  install_handler();
  region_ = take_region(data_, (size + page_bytes - 1) / page_bytes * page_bytes, std::move(name));
}

MappedFile::~MappedFile() {
  if (!region_) return;
  const std::lock_guard lock(changing);
  munmap(data_, size_);
  region_->begin.store(0);
  region_->end.store(0);
}

void check_mapped(const void* address) {
  if (faults.load() == 0) return;
  const std::lock_guard lock(changing);
  const Region* region = region_of(reinterpret_cast<uintptr_t>(address));
  if (region && region->damaged.load())
    throw FileError(region->name + ": the file became shorter, or could not be read any more, while it was in use; expected that nobody changes it. Load it again");
}

namespace {

// For the pages from that of the first byte, or `before` bytes before it, up to that of the last, which others may read at the same moment: both kinds of advice leave the bytes as
// they are. A refusal costs time or memory alone.
void advise(const void* begin, size_t bytes, size_t before, int advice) {
  const uintptr_t from = reinterpret_cast<uintptr_t>(begin);
  const Region* region = region_of(from);
  if (!region || !bytes) return;
  const uintptr_t start = from - std::min<uintptr_t>(before, from - region->begin.load());
  const uintptr_t first = start / page_bytes * page_bytes, end = std::min(from + bytes, region->end.load());
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, advice);
}

}  // namespace

void fetch_mapped(const void* begin, size_t bytes) {
#ifdef MADV_POPULATE_READ
  advise(begin, bytes, 0, MADV_POPULATE_READ);
#endif
}

void release_mapped(const void* begin, size_t bytes) {
  constexpr size_t around = size_t{1} << 20;      // a fault maps pages before it too, which were given back already
  advise(begin, bytes, around, MADV_DONTNEED);
}

}  // namespace skipstone
