// Files mapped into memory that may shrink, or fail to be read, while they are in use.
//
// Touching a page that the file no longer has raises SIGBUS, which would end the process. A handler puts zeros there instead and marks the mapping as
// damaged; whoever computed with its bytes asks check_mapped before it hands out a result. Faults elsewhere go to the handler that was there before.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace skipstone {

struct Region;

class MappedFile {
 public:
  // Maps `size` bytes of an open file read-only; the descriptor may be closed afterwards. name: for messages.
  // Throws FileError if the file is shorter than that, std::system_error if it cannot be mapped.
  MappedFile(int descriptor, uint64_t size, std::string name);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const uint8_t* data() const { return data_; }

 private:
  uint8_t* data_;
  uint64_t size_;
  Region* region_;
};

// Throws FileError if `address` lies in a mapping some of whose bytes were lost. Costs one load as long as none was.
void check_mapped(const void* address);

// For bytes of a mapped file that are about to be read, and for those that will hardly be read again: the process then holds no memory for
// them, and reading them once more costs a fault a page. Nothing happens where `begin` does not lie in a mapped file.
void fetch_mapped(const void* begin, size_t bytes);
void release_mapped(const void* begin, size_t bytes);

}  // namespace skipstone
